-- sweep: take out what is past its time: SETs past their retention, and jtis no longer to be remembered.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[3]   sets            hash     jti -> the SET, as signed
--   KEYS[4]   inflight        hash     jti -> record of a delivered SET
--   KEYS[5]   inflight_order  zset     jti -> order, of the SETs in flight
--   KEYS[6]   leases          zset     jti -> lane + microseconds when it may be offered again
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--   KEYS[9]   requeued        hash     jti -> record of a pending SET that was parked before
--   KEYS[10]  settled         hash     jti -> how it ended, in this dedupe window
--   KEYS[11]  settled_before  hash     the same, of the window before
--   ARGV[1]   retention       milliseconds that a SET may be outstanding
--   ARGV[2]   dedupe          milliseconds for which an ended jti is remembered
--   ARGV[3]   limit           the most SETs to take out, at most 1000
--   ARGV[4]   clock           the caller's clock, seconds since 1970; absent: not compared with the store's
--   ARGV[5]   skew            the most seconds by which the two may differ
--
-- Returns {left, jti, jti, …}: the SETs that expired; left is 1 when more are due.
-- Errors  CLOCK     the store's clock is far from the caller's, or past May 2041: nothing is done
--         NOSTREAM  no stream of this TPP
-- Safe to repeat.
--
--   redis-cli --eval sweep.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , 2592000000 86400000 1000

local stream, pending, sets, inflight, inflight_order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local leases, parked, parked_order, requeued, settled, settled_before = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local retention, dedupe, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock, skew = tonumber(ARGV[4]), tonumber(ARGV[5])
local LANE = 2251799813685248   -- 2^51: as in poll

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local now_ms = string.format('%.0f', math.floor(now / 1000))
if now >= LANE then
  return redis.error_reply('CLOCK the clock of the store is past May 2041, where a place leaves its lane')
end
if clock and math.abs(time[1] - clock) > skew then
  return redis.error_reply('CLOCK the clock of the store is ' .. string.format('%+.0f', time[1] - clock)
    .. ' s from that of the service')
end
local cutoff = math.max(0, now - retention * 1000)

local known = redis.call('HMGET', stream, 'created_at', 'settled_since', 'expired', 'kept_errors', 'kept_errors_before')
if not known[1] then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end

-- Two windows of ended jtis, each dropped as a whole: an end is kept for one to two dedupe times.
local since = known[2]
if since and tonumber(since) > tonumber(now_ms) then   -- the clock was set back: the window begins anew
  redis.call('HSET', stream, 'settled_since', now_ms)
  since = now_ms
end
if since and tonumber(now_ms) - tonumber(since) >= dedupe then
  redis.call('UNLINK', settled_before)
  if known[4] or known[5] then redis.call('HSET', stream, 'kept_errors', 0, 'kept_errors_before', known[4] or 0) end
  if redis.call('EXISTS', settled) == 1 then
    redis.call('RENAME', settled, settled_before)
    redis.call('HSET', stream, 'settled_since', now_ms)
    since = now_ms
  else
    redis.call('HDEL', stream, 'settled_since')
    since = false
  end
end

local answer = {0}
local function expire(order, records, lane)
  local from, to = string.format('%.0f', lane), string.format('(%.0f', lane + cutoff)
  for _, jti in ipairs(redis.call('ZRANGEBYSCORE', order, from, to, 'LIMIT', 0, limit + 1 - #answer)) do
    local record = redis.call('HGET', records, jti) or (redis.call('ZSCORE', order, jti) .. ' 0 ')
    local head, rest = record:match('^([^\n]*)(.*)$')
    redis.call('ZREM', order, jti)
    redis.call('HDEL', records, jti)
    redis.call('HDEL', sets, jti)
    redis.call('ZREM', leases, jti)
    redis.call('HSET', settled, jti, now_ms .. ' ' .. head .. (head:sub(-1) == ' ' and '' or ',') .. now_ms .. 'ts' .. rest)
    answer[#answer + 1] = jti
  end
  if redis.call('ZCOUNT', order, from, to) > 0 then answer[1] = 1 end
end
for lane = 0, 3 * LANE, LANE do expire(pending, requeued, lane) end
expire(inflight_order, inflight, 0)
expire(parked_order, parked, 0)
if #answer > 1 then
  redis.call('HSET', stream, 'expired', (known[3] or 0) + #answer - 1, 'settled_since', since or now_ms)
end
return answer
