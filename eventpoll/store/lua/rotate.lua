-- rotate: give a stream a new secret; the old one works a while longer.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[12]  wake            channel  where held polls listen
--   ARGV[1]   secret          SHA-256 of the new secret, in hex
--   ARGV[2]   grace           milliseconds for which the old secret still works; 0: none
--
-- Returns {'rotated'}.
-- Errors  NOSTREAM  no stream of this TPP
-- Not idempotent: a repeat makes the new secret the old one, and both work for the grace.
--
--   redis-cli --eval rotate.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , 5e88 60000

local stream, wake = KEYS[1], KEYS[12]
local secret, grace = ARGV[1], tonumber(ARGV[2])

local old = redis.call('HGET', stream, 'secret')
if not old then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', stream, 'secret', secret, 'old_secret', old, 'old_secret_since', string.format('%.0f', now_ms),
  'old_secret_until', string.format('%.0f', now_ms + grace))
-- polls held with a secret that no longer works are refused
local cluster = tostring(redis.pcall('INFO', 'cluster')):find('cluster_enabled:1')   -- there the word stays on this shard
if not (cluster and tonumber(redis.pcall('SPUBLISH', wake, 'rotate'))) then redis.call('PUBLISH', wake, 'rotate') end
return {'rotated'}
