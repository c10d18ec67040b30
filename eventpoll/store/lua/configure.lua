-- configure: make a TPP's stream, or change its settings.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[12]  wake            channel  where held polls listen
--   ARGV[1]   secret          SHA-256 of a new stream's secret, in hex
--   ARGV[2…]  settings        name and value of each setting to change; the value '' goes back to the service's own
--
-- Returns {'created'} or {'changed'}; the secret of a stream that is there stays.
-- Idempotent, but that the first call says created.
--
--   redis-cli --eval configure.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , 5e88 redeliver_after 30000

local stream, wake = KEYS[1], KEYS[12]
local secret = ARGV[1]

local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))

local created = redis.call('HSETNX', stream, 'created_at', now_ms) == 1
if created then redis.call('HSET', stream, 'secret', secret, 'layout', '1') end   -- of docs/redis-layout.md
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', stream, ARGV[i])
  else
    redis.call('HSET', stream, ARGV[i], ARGV[i + 1])
  end
end
-- a shorter lease may let held polls go
local cluster = tostring(redis.pcall('INFO', 'cluster')):find('cluster_enabled:1')   -- there the word stays on this shard
if not (cluster and tonumber(redis.pcall('SPUBLISH', wake, 'configure'))) then redis.call('PUBLISH', wake, 'configure') end
return {created and 'created' or 'changed'}
