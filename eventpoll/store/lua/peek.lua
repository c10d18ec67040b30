-- peek: tell which SETs are in one state, oldest first.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[4]   inflight        hash     jti -> record of a delivered SET
--   KEYS[5]   inflight_order  zset     jti -> order, of the SETs in flight
--   KEYS[6]   leases          zset     jti -> lane + microseconds when it may be offered again
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--   KEYS[9]   requeued        hash     jti -> record of a pending SET that was parked before
--   KEYS[10]  settled         hash     jti -> how it ended, in this dedupe window
--   KEYS[11]  settled_before  hash     the same, of the window before
--   ARGV[1]   state           'pending', 'in_flight' or 'parked'
--   ARGV[2]   limit           the most to tell of
--   ARGV[3]   after           the jti after which to go on; '' from the oldest
--
-- Returns {jti, record, lease, jti, record, lease, …}: record as in poll, lease the microseconds when
--         it may be offered again or ''.
-- Errors  NOSTREAM  no stream of this TPP
--         NOSET     nothing is known of the jti to go on after
-- Reads only.
--
--   redis-cli --eval peek.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , pending 10 ''

local stream, pending, inflight, inflight_order, leases, parked, parked_order, requeued = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local settled, settled_before = KEYS[10], KEYS[11]
local state, limit, after = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if redis.call('EXISTS', stream) == 0 then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local order = ({pending = pending, in_flight = inflight_order, parked = parked_order})[state]
local records = ({pending = requeued, in_flight = inflight, parked = parked})[state]

local LANE = 2251799813685248   -- 2^51: as in poll
local from = 0
if after ~= '' then
  -- It may have moved on meanwhile, or have ended: its order is the same wherever it is.
  local ended = redis.call('HGET', settled, after) or redis.call('HGET', settled_before, after)
  local place = redis.call('ZSCORE', pending, after) or redis.call('ZSCORE', inflight_order, after)
    or redis.call('ZSCORE', parked_order, after) or (ended and ended:match('^%d+ (%d+) '))
  if not place then
    return redis.error_reply('NOSET nothing is known of the jti to go on after')
  end
  from = place % LANE + 1
end

local found = {}
for lane = 0, 3 * LANE, LANE do   -- each family is a lane of its own in pending; the others have the first alone
  local part = redis.call('ZRANGEBYSCORE', order, string.format('%.0f', lane + from),
    string.format('%.0f', lane + LANE - 1), 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #part, 2 do found[#found + 1] = {part[i], part[i + 1], part[i + 1] - lane} end
end
table.sort(found, function(one, other) return one[3] < other[3] end)

local answer = {}
for i = 1, math.min(limit, #found) do
  local jti, place = found[i][1], found[i][2]
  answer[#answer + 1] = jti
  answer[#answer + 1] = redis.call('HGET', records, jti) or (place .. ' 0 ')
  answer[#answer + 1] = redis.call('ZSCORE', leases, jti) or ''
end
return answer
