-- discard: end a parked SET without delivering it again.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[3]   sets            hash     jti -> the SET, as signed
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--   KEYS[10]  settled         hash     jti -> how it ended, in this dedupe window
--   ARGV[1]   jti             which
--
-- Returns {'discarded'}.
-- Errors  NOSTREAM   no stream of this TPP
--         NOSET      no such SET, or settled
--         NOTPARKED  the SET is pending or in flight
-- Safe to repeat: then it is gone, and NOSET says so.
--
--   redis-cli --eval discard.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , jti-1

local stream, sets, parked, parked_order, settled = KEYS[1], KEYS[3], KEYS[7], KEYS[8], KEYS[10]
local jti = ARGV[1]

local known = redis.call('HMGET', stream, 'created_at', 'settled_since', 'discarded')
if not known[1] then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local record = redis.call('HGET', parked, jti)
if not record then
  if redis.call('HEXISTS', sets, jti) == 1 then
    return redis.error_reply('NOTPARKED the SET is not parked')
  end
  return redis.error_reply('NOSET no such SET on this stream')
end

local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local head, rest = record:match('^([^\n]*)(.*)$')
redis.call('HDEL', parked, jti)
redis.call('ZREM', parked_order, jti)
redis.call('HDEL', sets, jti)
redis.call('HSET', settled, jti, now_ms .. ' ' .. head .. ',' .. now_ms .. 'xb' .. rest)
redis.call('HSET', stream, 'discarded', (known[3] or 0) + 1, 'settled_since', known[2] or now_ms)
return {'discarded'}
