-- push: put one SET on a TPP's stream, or some in one step, once per jti, and wake the polls that wait for them.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[3]   sets            hash     jti -> the SET, as signed
--   KEYS[5]   inflight_order  zset     jti -> order, of the SETs in flight
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--   KEYS[10]  settled         hash     jti -> how it ended, in this dedupe window
--   KEYS[11]  settled_before  hash     the same, of the window before
--   KEYS[12]  wake            channel  where held polls listen
--   ARGV[1]   jti             1 to 128 characters, no control characters
--   ARGV[2]   secevent        the SET: three base64url parts
--   ARGV[3]   dedupe          milliseconds for which an ended jti is remembered; absent: as long as it is kept
--   ARGV[4]   retention       milliseconds that a SET may be outstanding; absent: nothing is said of older ones
--   ARGV[5]   family          0 to 3, so that a poll may be given those of its families alone; absent: 0, none
--   ARGV[6]   formed          1: it has been seen that the SETs are three base64url parts each; absent: it is looked at here
--   ARGV[7]   replicas        1: have the replicas hear of a repeat too, so that WAIT waits for the SET; absent: 0
--   ARGV[8]   clock           the caller's clock, seconds since 1970; absent: not compared with the store's
--   ARGV[9]   skew            the most seconds by which the two may differ
--   ARGV[10…] more            jti, secevent and family of each further SET, in turn
--
-- Returns {'queued'} when the SET is new, {'queued', 'stale'} when there are older ones for sweep to take out,
--         {'repeated'} when that very SET is there or its jti ended within the dedupe window, {'kept', SET} when
--         other bytes have the jti: they stay. Where there is more, a list of such answers or errors, one for each.
-- Errors  CLOCK     the store's clock is far from the caller's, or past May 2041: nothing is done
--         NOSTREAM  no stream of this TPP
--         BADSET    not a SET, or not a jti
--         FULL      the stream holds as many SETs as it may, acknowledged ones whose error is kept among them
-- Idempotent: pushing again after a lost answer changes nothing.
--
--   redis-cli --eval push.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , jti-1 eyJ0.eyJ9.c2ln

local stream, pending, sets = KEYS[1], KEYS[2], KEYS[3]
local inflight_order, parked_order = KEYS[5], KEYS[8]
local settled, settled_before, wake = KEYS[10], KEYS[11], KEYS[12]
local dedupe, retention, family = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]) or 0
local formed, replicas = ARGV[6] == '1', ARGV[7] == '1'
local clock, skew = tonumber(ARGV[8]), tonumber(ARGV[9])
local LANE = 2251799813685248   -- 2^51: as in poll

local function utf8(text)
  -- Whether text is well-formed UTF-8: each pattern eats one class of characters.
  local classes = {
    '[\1-\127]+', '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]',
    '[\225-\236\238\239][\128-\191][\128-\191]', '\237[\128-\159][\128-\191]',
    '\240[\144-\191][\128-\191][\128-\191]', '[\241-\243][\128-\191][\128-\191][\128-\191]',
    '\244[\128-\143][\128-\191][\128-\191]',
  }
  for _, class in ipairs(classes) do text = text:gsub(class, ' ') end
  return not text:find('[^ ]')
end

local function characters(text)
  return select(2, text:gsub('[^\128-\191]', ''))   -- each begins with a byte that continues none
end

local function fits(jti)
  -- Whether it is 1 to 128 characters, none of them a control character.
  if not jti or #jti == 0 or #jti > 512 or jti:find('[%c%z]') then return false end
  if not jti:find('[\128-\255]') then return #jti <= 128 end
  return utf8(jti) and characters(jti) <= 128
end

local known = redis.call('HMGET', stream, 'created_at', 'last_order', 'pushed', 'max_pending', 'hour')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last_order, pushed = tonumber(known[2]) or 0, tonumber(known[3]) or 0
local max_pending = tonumber(known[4]) or 0

-- The clock was set back: orders go on from the last one, so that what is outstanding keeps its turn, if anything is.
if last_order > now and redis.call('HLEN', sets) == 0 then last_order = 0 end
if math.max(now, last_order) + #ARGV >= LANE then
  return redis.error_reply('CLOCK the clock of the store is past May 2041, where a place leaves its lane, or it was at the last push')
end
if clock and math.abs(time[1] - clock) > skew then
  return redis.error_reply('CLOCK the clock of the store is ' .. string.format('%+.0f', time[1] - clock)
    .. ' s from that of the service')
end
local queued, lanes = 0, {}   -- how many were new; what to tell of them, by family

local function kept_errors()   -- of acknowledged SETs, as poll counts them
  local now_and_before = redis.call('HMGET', stream, 'kept_errors', 'kept_errors_before')
  return (now_and_before[1] or 0) + (now_and_before[2] or 0)
end

local function push(jti, secevent, family)
  -- Put a SET on the stream; what to tell of it.
  if not fits(jti) then
    return redis.error_reply('BADSET the jti must be 1 to 128 characters, without control characters')
  end
  if not formed and not (secevent and secevent:find('^[%w_-]+%.[%w_-]+%.[%w_-]+$')) then
    return redis.error_reply('BADSET a SET is three base64url parts')
  end
  if not known[1] then
    return redis.error_reply('NOSTREAM no stream of this TPP')
  end

  local kept = redis.call('HGET', sets, jti)
  if kept and replicas then redis.call('HSET', stream, 'created_at', known[1]) end   -- a write that writes nothing
  if kept == secevent then return {'repeated'} end
  if kept then return {'kept', kept} end

  local ended, window = redis.call('HGET', settled, jti), 'kept_errors'
  if not ended then ended, window = redis.call('HGET', settled_before, jti), 'kept_errors_before' end
  if ended and not (dedupe and now / 1000 - tonumber(ended:match('^%d+')) >= dedupe) then
    return {'repeated'}
  end

  if max_pending > 0 and redis.call('HLEN', sets) + kept_errors() >= max_pending then
    return redis.error_reply('FULL the stream holds as many SETs as it may')
  end

  last_order = math.max(now, last_order + 1)   -- strictly growing, whatever the clock does: the order of the pushes
  redis.call('HSET', sets, jti, secevent)
  redis.call('ZADD', pending, string.format('%.0f', family * LANE + last_order), jti)
  if ended then
    redis.call('HDEL', settled, jti)
    redis.call('HDEL', settled_before, jti)
    if ended:find('a%a\n') then   -- one of those
      redis.call('HSET', stream, window, redis.call('HGET', stream, window) - 1)
    end
  end
  local answer = {'queued'}
  queued = queued + 1
  lanes[family] = lanes[family] or {}
  table.insert(lanes[family], answer)
  return answer
end

local told = {push(ARGV[1], ARGV[2], family)}
for i = 10, #ARGV, 3 do told[#told + 1] = push(ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]) or 0) end

if queued > 0 then
  -- The first that counts in an hour notes how the counters stood before it; the last 24 such notes are kept.
  local hour = string.format('%.0f', math.floor(now / 3600000000))
  if hour ~= known[5] then
    local noted = redis.call('HMGET', stream, 'hours', 'pushed', 'delivered', 'acked')
    local hours = noted[1] and noted[1] .. ',' or ''
    if select(2, hours:gsub(',', '')) > 23 then hours = hours:gsub('^[^,]*,', '') end
    redis.call('HSET', stream, 'hour', hour, 'hours',
      hours .. hour .. ' ' .. (noted[2] or 0) .. ' ' .. (noted[3] or 0) .. ' ' .. (noted[4] or 0))
  end
  redis.call('HSET', stream, 'last_order', string.format('%.0f', last_order), 'pushed', pushed + queued,
    'pushed_at', string.format('%.0f', math.floor(now / 1000)))
  if lanes[1] or lanes[2] or lanes[3] then redis.call('HSET', stream, 'families', 1) end
  local cluster = tostring(redis.pcall('INFO', 'cluster')):find('cluster_enabled:1')   -- there the word stays on this shard
  if not (cluster and tonumber(redis.pcall('SPUBLISH', wake, 'push'))) then redis.call('PUBLISH', wake, 'push') end
end

if retention and queued > 0 then
  local cutoff = math.max(0, now - retention * 1000)
  local function older(key, lane)
    return #redis.call('ZRANGEBYSCORE', key, string.format('%.0f', lane), string.format('(%.0f', lane + cutoff), 'LIMIT', 0, 1) > 0
  end
  local stale = older(inflight_order, 0) or older(parked_order, 0)
  for lane, answers in pairs(lanes) do
    if stale or older(pending, lane * LANE) then
      for _, answer in ipairs(answers) do answer[2] = 'stale' end
    end
  end
end
return #told > 1 and told or told[1]
