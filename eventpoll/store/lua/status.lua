-- status: tell how a stream stands.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[4]   inflight        hash     jti -> record of a delivered SET
--   KEYS[5]   inflight_order  zset     jti -> order, of the SETs in flight
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--
-- Returns {now, pending, in_flight, parked, orders of the oldest of each ('' without one), then name and
--         value of every field of the stream}: now is the store's clock in milliseconds.
-- Errors  NOSTREAM  no stream of this TPP
-- Reads only.
--
--   redis-cli --eval status.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} ,

local stream, pending, inflight, inflight_order, parked, parked_order = KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[7], KEYS[8]

if redis.call('EXISTS', stream) == 0 then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local LANE = 2251799813685248   -- 2^51: as in poll

local function oldest(key)   -- over the lanes of all families
  local lowest = nil
  for lane = 0, 3 * LANE, LANE do
    local place = redis.call('ZRANGEBYSCORE', key, string.format('%.0f', lane), string.format('%.0f', lane + LANE - 1),
      'WITHSCORES', 'LIMIT', 0, 1)[2]
    if place and (not lowest or place - lane < lowest) then lowest = place - lane end
  end
  return lowest and string.format('%.0f', lowest) or ''
end
local time = redis.call('TIME')
local answer = {
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  redis.call('ZCARD', pending), redis.call('HLEN', inflight), redis.call('HLEN', parked),
  oldest(pending), oldest(inflight_order), oldest(parked_order),
}
for _, field in ipairs(redis.call('HGETALL', stream)) do answer[#answer + 1] = field end
return answer
