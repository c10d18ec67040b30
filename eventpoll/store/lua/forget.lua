-- forget: take a stream away, with all that it holds.
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
--   KEYS[12]  wake            channel  where held polls listen
--   ARGV[1]   force           1 even if SETs are outstanding
--
-- Returns {'forgotten', pushed, delivered, acked, reported, discarded, expired}: what the stream had counted.
-- Errors  NOSTREAM     no stream of this TPP
--         OUTSTANDING  SETs are outstanding, and force is not 1
-- Safe to repeat: then there is no stream, and NOSTREAM says so.
--
--   redis-cli --eval forget.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , 0

local stream, pending, sets, inflight, inflight_order, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local parked, parked_order, requeued, settled, settled_before, wake = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local force = ARGV[1]

if redis.call('EXISTS', stream) == 0 then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
if force ~= '1' and redis.call('HLEN', sets) > 0 then
  return redis.error_reply('OUTSTANDING SETs are outstanding on this stream')
end
local counted = redis.call('HMGET', stream, 'pushed', 'delivered', 'acked', 'reported', 'discarded', 'expired')
redis.call('UNLINK', stream, pending, sets, inflight, inflight_order, leases,
  parked, parked_order, requeued, settled, settled_before)
local cluster = tostring(redis.pcall('INFO', 'cluster')):find('cluster_enabled:1')   -- there the word stays on this shard
if not (cluster and tonumber(redis.pcall('SPUBLISH', wake, 'forget'))) then redis.call('PUBLISH', wake, 'forget') end
local answer = {'forgotten'}
for i = 1, 6 do answer[i + 1] = tonumber(counted[i]) or 0 end
return answer
