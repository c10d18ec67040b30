-- poll: settle what the TPP acknowledges and reports, then hand out the next SETs, in one step.
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
--   ARGV[1]   proof           SHA-256 of the secret that was shown, in hex; '' where it is known already who asks
--   ARGV[2]   max_events      the most SETs to hand out; 0 hands out none
--   ARGV[3]   redeliver_after milliseconds of a lease, unless the stream has its own
--   ARGV[4]   max_deliveries  park a SET at its n-th delivery, 0 never, unless the stream has its own
--   ARGV[5]   on_error        'park' or 'redeliver', unless the stream has its own
--   ARGV[6]   retention       milliseconds that a SET may be outstanding
--   ARGV[7]   dedupe          milliseconds for which an ended jti is remembered
--   ARGV[8]   clock           the caller's clock, seconds since 1970; '': not compared with the store's
--   ARGV[9]   skew            the most seconds by which the two may differ
--   ARGV[10]  profile         one letter for the history: r RFC 8936, o OBIE, w WSO2
--   ARGV[11]  families        the families that the caller may see, a digit each: 0 the SETs of none
--   ARGV[12]  acks            how many jtis of ack follow
--   ARGV[13…] settle          those jtis, each once; then jti and error (JSON text) of each member of setErrs
--
-- Returns {more, wait, stale, acked, reported, jti, SET, jti, SET, …}: more is 1 when a next poll could
--         return something that this answer does not hold; wait is the milliseconds until the next lease
--         runs out, -1 without one; stale is 1 when there is something for sweep to take out.
-- Errors  CLOCK     the store's clock is far from the caller's, or past May 2041: nothing is done
--         NOSTREAM  no stream of this TPP
--         DENIED    the secret is not the stream's
-- Not idempotent: what it hands out counts as delivered. A repeated ack or setErrs changes nothing.
-- Cost: by the jtis of the request and the SETs of the answer; O(log n) in what waits.
--
--   redis-cli --eval poll.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , '' 10 0 0 park 2592000000 86400000 '' '' r 0123 1 jti-1

local stream, pending, sets, inflight, inflight_order = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local leases, parked, parked_order, requeued, settled = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local proof, max_events = ARGV[1], tonumber(ARGV[2])
local redeliver_after, max_deliveries, on_error = ARGV[3], ARGV[4], ARGV[5]
local retention, dedupe = tonumber(ARGV[6]), tonumber(ARGV[7])
local clock, skew = tonumber(ARGV[8]), tonumber(ARGV[9]) or 0
local profile, families, acks = ARGV[10], ARGV[11], tonumber(ARGV[12])
local PAGE = 100    -- SETs read at a time
local ROOM = 8388608   -- bytes of SETs in one answer: what goes over it waits for the next, but for the first SET
local CHUNK = 500   -- values for one unpack: Lua's stack holds some 8 000
local TRAIL = 100   -- the last so many happenings of a SET are kept
local ENDED = 32    -- of one that was acknowledged
local LANE = 2251799813685248   -- 2^51: a family is a lane of its own in pending and in leases, so far apart

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local millis = math.floor(now / 1000)
local now_ms = string.format('%.0f', millis)
if now >= LANE then
  return redis.error_reply('CLOCK the clock of the store is past May 2041, where a place leaves its lane')
end
if clock and math.abs(time[1] - clock) > skew then
  return redis.error_reply('CLOCK the clock of the store is ' .. string.format('%+.0f', time[1] - clock)
    .. ' s from that of the service')
end

local known = redis.call('HMGET', stream, 'created_at', 'secret', 'old_secret', 'old_secret_until',
  'redeliver_after', 'max_deliveries', 'on_error', 'polled_at', 'settled_since', 'delivered', 'acked', 'reported',
  'families', 'hour')
if not known[1] then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end

local function old_secret_works()
  -- A clock that was set back since the secret was changed does not give the old one more time.
  local since = redis.call('HGET', stream, 'old_secret_since')
  return now / 1000 < tonumber(known[4]) and now / 1000 >= (tonumber(since) or 0) - 1000 * skew
end

if proof ~= '' and proof ~= known[2] and not (proof == known[3] and old_secret_works()) then
  return redis.error_reply('DENIED the secret is not the one of this stream')
end

-- A write that writes nothing: a store that is read-only, cannot persist or is full refuses it here,
-- before anything is done. Settling alone frees memory, so it is let through when the store is full.
if max_events > 0 then
  redis.call('HSETNX', stream, 'created_at', now_ms)
else
  redis.call('HDEL', stream, '-')
end

redeliver_after = tonumber(known[5] or redeliver_after) * 1000
max_deliveries = tonumber(known[6] or max_deliveries)
on_error = known[7] or on_error
local cutoff = math.max(0, now - retention * 1000)

-- The lanes that the caller may see. A stream on which no SET ever had a family has one lane.
local lanes = {}
for family in (known[13] and families or '0'):gmatch('%d') do lanes[#lanes + 1] = tonumber(family) * LANE end

local function first(key, from, to, limit)   -- the lowest between two scores, over those lanes: jti, score, jti, …
  local found = {}
  for _, lane in ipairs(lanes) do
    local part = redis.call('ZRANGEBYSCORE', key, string.format('%.0f', lane + from),
      string.format('%.0f', lane + to), 'WITHSCORES', 'LIMIT', 0, limit)
    if #lanes == 1 then return part end
    for i = 1, #part, 2 do found[#found + 1] = {part[i], part[i + 1], tonumber(part[i + 1]) - lane} end
  end
  table.sort(found, function(one, other) return one[3] < other[3] end)
  local merged = {}
  for i = 1, math.min(limit, #found) do
    merged[2 * i - 1], merged[2 * i] = found[i][1], found[i][2]
  end
  return merged
end

local function count(key, from, to)
  local sum = 0
  for _, lane in ipairs(lanes) do
    sum = sum + redis.call('ZCOUNT', key, string.format('%.0f', lane + from), string.format('%.0f', lane + to))
  end
  return sum
end

-- A record is "place deliveries happening,happening…", the place being lane + order; then a line with the last
-- error, if any.
-- A happening is when (milliseconds), what (a letter) and by which profile (a letter).
local function amend(record, what, delivered)
  local place, deliveries, trail, rest = record:match('^(%d+) (%d+) ([^\n]*)(.*)$')
  trail = (trail == '' and '' or trail .. ',') .. now_ms .. what .. profile
  if #trail > 16 * ENDED then trail = trail:sub(1 - 16 * (what == 'a' and ENDED or TRAIL)) end
  deliveries = tonumber(deliveries) + (delivered or 0)
  return place .. ' ' .. deliveries .. ' ' .. trail .. rest, tonumber(place), deliveries, rest ~= ''
end

local function with_error(record, err)
  return record:match('^[^\n]*') .. '\n' .. err
end

local function park(jti, place, record)
  redis.call('HSET', parked, jti, record)
  redis.call('ZADD', parked_order, string.format('%.0f', place % LANE), jti)
end

-- 1. ack: settles for good, whatever state the SET is in.

local acked, kept_errors = 0, 0   -- of what was acknowledged, errors count with max_pending as long as they are kept
for from = 13, 12 + acks, CHUNK do
  local jtis = {unpack(ARGV, from, math.min(from + CHUNK - 1, 12 + acks))}
  local records = redis.call('HMGET', inflight, unpack(jtis))
  local elsewhere, places = {}, {}
  for i, jti in ipairs(jtis) do
    if not records[i] then
      elsewhere[#elsewhere + 1] = jti
      places[#places + 1] = i
    end
  end
  if #elsewhere > 0 then
    local orders = redis.call('ZMSCORE', pending, unpack(elsewhere))
    local parks = redis.call('HMGET', parked, unpack(elsewhere))
    for i, jti in ipairs(elsewhere) do
      if orders[i] then
        records[places[i]] = redis.call('HGET', requeued, jti) or (orders[i] .. ' 0 ')
        redis.call('ZREM', pending, jti)
        redis.call('HDEL', requeued, jti)
      elseif parks[i] then
        records[places[i]] = parks[i]
        redis.call('HDEL', parked, jti)
        redis.call('ZREM', parked_order, jti)
      end
    end
  end
  local gone, ends = {}, {}
  for i, jti in ipairs(jtis) do
    if records[i] then
      local record, _, _, has_error = amend(records[i], 'a')
      gone[#gone + 1] = jti
      ends[#ends + 1] = jti
      ends[#ends + 1] = now_ms .. ' ' .. record
      if has_error then kept_errors = kept_errors + 1 end
    end
  end
  if #gone > 0 then
    redis.call('HDEL', sets, unpack(gone))
    redis.call('HDEL', inflight, unpack(gone))
    redis.call('ZREM', inflight_order, unpack(gone))
    redis.call('ZREM', leases, unpack(gone))
    redis.call('HSET', settled, unpack(ends))
    acked = acked + #gone
  end
end

-- 2. setErrs: parks the SET, or only notes the error, as the policy says. The error of a SET that
--    was acknowledged is noted with its end.

local reported = 0
for i = 13 + acks, #ARGV, 2 do
  local jti, err = ARGV[i], ARGV[i + 1]
  local record = redis.call('HGET', inflight, jti)
  local place = not record and redis.call('ZSCORE', pending, jti)
  local was_parked = not record and not place and redis.call('HGET', parked, jti)
  if record then
    record, place = amend(record, 'e')
    if on_error == 'park' then
      redis.call('HDEL', inflight, jti)
      redis.call('ZREM', inflight_order, jti)
      redis.call('ZREM', leases, jti)
      park(jti, place, with_error(record, err))
    else
      redis.call('HSET', inflight, jti, with_error(record, err))
    end
  elseif place then
    record = with_error(amend(redis.call('HGET', requeued, jti) or (place .. ' 0 '), 'e'), err)
    if on_error == 'park' then
      redis.call('ZREM', pending, jti)
      redis.call('HDEL', requeued, jti)
      park(jti, place, record)
    else
      redis.call('HSET', requeued, jti, record)
    end
  elseif was_parked then
    redis.call('HSET', parked, jti, with_error(amend(was_parked, 'e'), err))
  else
    local ended = redis.call('HGET', settled, jti)
    if ended then
      if ended:find('a%a$') then kept_errors = kept_errors + 1 end   -- acknowledged, and without an error until now
      redis.call('HSET', settled, jti, with_error(ended, err))
    end
  end
  if record or was_parked then reported = reported + 1 end
end

-- 3. Fetch: fresh SETs first, oldest first; then those offered again, longest waiting first.
--    What is past its retention is not offered: it loses its lease here, and sweep takes it out.

local old = redis.call('ZRANGEBYSCORE', inflight_order, '-inf', string.format('(%.0f', cutoff), 'LIMIT', 0, 2 * CHUNK)
for from = 1, #old, CHUNK do
  redis.call('ZREM', leases, unpack(old, from, math.min(from + CHUNK - 1, #old)))
end

-- The clock was set back since the last poll: what was leased before would be hidden until it has caught up.
-- Such a lease begins anew. What is left of them is for the next poll, which finds polled_at as it was.
local polled_at, last_poll = now_ms, tonumber(known[8]) or 0
if last_poll > millis then
  local left = CHUNK
  for lane = 0, 3 * LANE, LANE do
    local longest = lane + now + redeliver_after
    local late = redis.call('ZRANGEBYSCORE', leases, string.format('%.0f', longest + 1000000),
      string.format('%.0f', lane + LANE - 1), 'LIMIT', 0, left)
    for i, jti in ipairs(late) do redis.call('ZADD', leases, string.format('%.0f', longest + i), jti) end
    left = left - #late
  end
  if left == 0 then polled_at = known[8] end
end

local room, full = ROOM, false
local lease = math.min(now + redeliver_after, LANE - 1 - math.max(0, max_events))   -- the last one, too, ends in its lane
local answer, leased, delivered = {0, 0, 0, 0, 0}, 0, 0   -- the five numbers are filled in below

local function hand_out(jtis, records)   -- as many as there is room for; tells how many
  local secevents = redis.call('HMGET', sets, unpack(jtis))
  local life, orders, ends, handed = {}, {}, {}, 0
  for i, jti in ipairs(jtis) do
    full = full or (delivered > 0 and room < #secevents[i])
    if full then break end
    room, handed = room - #secevents[i], i
    local record, place, deliveries = amend(records[i], 'd', 1)
    delivered = delivered + 1
    answer[2 * delivered + 4], answer[2 * delivered + 5] = jti, secevents[i]
    if max_deliveries > 0 and deliveries >= max_deliveries then
      redis.call('HDEL', inflight, jti)
      redis.call('ZREM', inflight_order, jti)
      redis.call('ZREM', leases, jti)
      park(jti, place, with_error(amend(record, 'u'), '{"err":"undelivered","description":"delivered '
        .. deliveries .. ' times without an acknowledgement"}'))
    else
      leased = leased + 1
      life[#life + 1], life[#life + 2] = jti, record
      local order = place % LANE
      orders[#orders + 1], orders[#orders + 2] = string.format('%.0f', order), jti
      ends[#ends + 1], ends[#ends + 2] = string.format('%.0f', place - order + lease + leased), jti
    end
  end
  if #life > 0 then
    redis.call('HSET', inflight, unpack(life))
    redis.call('ZADD', inflight_order, unpack(orders))
    redis.call('ZADD', leases, unpack(ends))
  end
  return handed
end

local drained = false   -- nothing fresh is left
while delivered < max_events and not full do
  local found = first(pending, cutoff, LANE - 1, math.min(PAGE, max_events - delivered))
  drained = #found == 0
  if drained then break end
  local jtis, records = {}, {}
  for i = 1, #found, 2 do
    jtis[#jtis + 1] = found[i]
    records[#records + 1] = found[i + 1] .. ' 0 '
  end
  if redis.call('EXISTS', requeued) == 1 then
    for i, record in ipairs(redis.call('HMGET', requeued, unpack(jtis))) do
      if record then records[i] = record end
    end
  end
  local handed = hand_out(jtis, records)
  if handed > 0 then
    redis.call('ZREM', pending, unpack(jtis, 1, handed))
    redis.call('HDEL', requeued, unpack(jtis, 1, handed))
  end
end

-- With no lease a SET may be offered again at once, but never twice in one answer.
local due = redeliver_after == 0 and LANE - 1 or now
local again, quiet = {}, false   -- quiet: no lease is over
if delivered < max_events and not full then
  local found = first(leases, 0, due, max_events)
  quiet = #found == 0
  for i = 1, #found, 2 do again[#again + 1] = found[i] end
end
local fresh = {}
for i = 1, delivered do fresh[answer[2 * i + 4]] = true end
for from = 1, #again, PAGE do
  local candidates = {unpack(again, from, math.min(from + PAGE - 1, #again))}
  local jtis, records = {}, {}
  for i, record in ipairs(redis.call('HMGET', inflight, unpack(candidates))) do
    local jti = candidates[i]
    local wanted = not fresh[jti] and delivered + #jtis < max_events
    if wanted and record:match('^%d+') % LANE < cutoff then
      redis.call('ZREM', leases, jti)   -- too old: sweep finds it by its order
    elseif wanted then
      jtis[#jtis + 1], records[#records + 1] = jti, record
    end
  end
  if #jtis > 0 then hand_out(jtis, records) end
  if full or delivered >= max_events then break end
end

-- 4. What is left, and what there is to note.

local more = not quiet and count(leases, 0, due) > (redeliver_after == 0 and leased or 0)
  or not drained and count(pending, cutoff, LANE - 1) > 0

local wait = -1
local next_lease = quiet and redeliver_after == 0 and {} or first(leases, 0, LANE - 1, 1)
if #next_lease > 0 then
  wait = math.max(0, math.ceil((next_lease[2] % LANE - now) / 1000))
end

local since = tonumber(known[9])
local stale = since and (millis - since >= dedupe or since > millis)
  or #old > 0 or #first(pending, 0, cutoff - 1, 1) > 0
if not stale then
  local oldest = redis.call('ZRANGE', parked_order, 0, 0, 'WITHSCORES')
  stale = #oldest > 0 and tonumber(oldest[2]) < cutoff
end

if kept_errors > 0 then
  redis.call('HSET', stream, 'kept_errors', (redis.call('HGET', stream, 'kept_errors') or 0) + kept_errors)
end
if acked > 0 and not known[9] then redis.call('HSET', stream, 'settled_since', now_ms) end
if acked + reported + delivered > 0 then
  -- The first that counts in an hour notes how the counters stood before it; the last 24 such notes are kept.
  local hour = string.format('%.0f', math.floor(now / 3600000000))
  if hour ~= known[14] then
    local noted = redis.call('HMGET', stream, 'hours', 'pushed', 'delivered', 'acked')
    local hours = noted[1] and noted[1] .. ',' or ''
    if select(2, hours:gsub(',', '')) > 23 then hours = hours:gsub('^[^,]*,', '') end
    redis.call('HSET', stream, 'hour', hour, 'hours',
      hours .. hour .. ' ' .. (noted[2] or 0) .. ' ' .. (noted[3] or 0) .. ' ' .. (noted[4] or 0))
  end
  redis.call('HSET', stream, 'polled_at', polled_at, 'delivered', (known[10] or 0) + delivered,
    'acked', (known[11] or 0) + acked, 'reported', (known[12] or 0) + reported)
elseif math.abs(millis - last_poll) >= 1000 then
  redis.call('HSET', stream, 'polled_at', polled_at)
end

answer[1], answer[2], answer[3], answer[4], answer[5] = more and 1 or 0, wait, stale and 1 or 0, acked, reported
return answer
