-- requeue: put a parked SET back among the pending, as if it had never been delivered.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[3]   sets            hash     jti -> the SET, as signed
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[8]   parked_order    zset     jti -> order, of the parked SETs
--   KEYS[9]   requeued        hash     jti -> record of a pending SET that was parked before
--   KEYS[12]  wake            channel  where held polls listen
--   ARGV[1]   jti             which
--
-- Returns {'requeued'}.
-- Errors  NOSTREAM   no stream of this TPP
--         NOSET      no such SET, or settled
--         NOTPARKED  the SET is pending or in flight
-- Safe to repeat: then it is no longer parked, and NOTPARKED says so.
--
--   redis-cli --eval requeue.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , jti-1

local stream, pending, sets, parked, parked_order, requeued, wake = KEYS[1], KEYS[2], KEYS[3], KEYS[7], KEYS[8], KEYS[9], KEYS[12]
local jti = ARGV[1]

if redis.call('EXISTS', stream) == 0 then
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
local order, trail, rest = record:match('^(%d+) %d+ ([^\n]*)(.*)$')
redis.call('HSET', requeued, jti, order .. ' 0 ' .. (trail == '' and '' or trail .. ',') .. now_ms .. 'qb' .. rest)
redis.call('HDEL', parked, jti)
redis.call('ZREM', parked_order, jti)
redis.call('ZADD', pending, order, jti)
local cluster = tostring(redis.pcall('INFO', 'cluster')):find('cluster_enabled:1')   -- there the word stays on this shard
if not (cluster and tonumber(redis.pcall('SPUBLISH', wake, 'requeue'))) then redis.call('PUBLISH', wake, 'requeue') end
return {'requeued'}
