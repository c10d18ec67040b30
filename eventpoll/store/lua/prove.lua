-- prove: check a TPP's secret.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   ARGV[1]   proof           SHA-256 of the secret that was shown, in hex
--
-- Returns {'proven'}.
-- Errors  NOSTREAM  no stream of this TPP
--         DENIED    the secret is not the stream's
-- Reads only.
--
--   redis-cli --eval prove.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , 5e88

local stream = KEYS[1]
local proof = ARGV[1]

local known = redis.call('HMGET', stream, 'created_at', 'secret', 'old_secret', 'old_secret_until')
if not known[1] then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if proof ~= known[2] and not (proof == known[3] and now_ms < tonumber(known[4])) then
  return redis.error_reply('DENIED the secret is not the one of this stream')
end
return {'proven'}
