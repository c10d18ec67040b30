-- find: tell all about one SET, wherever it is.
--
--   KEYS[1]   stream          hash     settings, secrets, times and counters
--   KEYS[2]   pending         zset     jti -> place: lane + order, microseconds when pushed, never twice the same
--   KEYS[3]   sets            hash     jti -> the SET, as signed
--   KEYS[4]   inflight        hash     jti -> record of a delivered SET
--   KEYS[6]   leases          zset     jti -> lane + microseconds when it may be offered again
--   KEYS[7]   parked          hash     jti -> record and error of a parked SET
--   KEYS[9]   requeued        hash     jti -> record of a pending SET that was parked before
--   KEYS[10]  settled         hash     jti -> how it ended, in this dedupe window
--   KEYS[11]  settled_before  hash     the same, of the window before
--   ARGV[1]   jti             which
--   ARGV[2]   dedupe          milliseconds for which an ended jti is remembered
--
-- Returns {state, record, lease, SET}: state 'pending', 'in_flight', 'parked' or 'settled'; record as in
--         poll; lease and SET '' where there is none.
-- Errors  NOSTREAM  no stream of this TPP
--         NOSET     no such SET, or forgotten
-- Reads only.
--
--   redis-cli --eval find.lua 'eventpoll:{tpp-1}:'{stream,pending,sets,inflight,inflight_order,leases,parked,parked_order,requeued,settled,settled_before,wake} , jti-1 86400000

local stream, pending, sets, inflight, leases, parked, requeued, settled, settled_before = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[7], KEYS[9], KEYS[10], KEYS[11]
local jti, dedupe = ARGV[1], tonumber(ARGV[2])

if redis.call('EXISTS', stream) == 0 then
  return redis.error_reply('NOSTREAM no stream of this TPP')
end
local secevent = redis.call('HGET', sets, jti) or ''
local order = redis.call('ZSCORE', pending, jti)
if order then
  return {'pending', redis.call('HGET', requeued, jti) or (order .. ' 0 '), '', secevent}
end
local record = redis.call('HGET', inflight, jti)
if record then
  return {'in_flight', record, redis.call('ZSCORE', leases, jti) or '', secevent}
end
record = redis.call('HGET', parked, jti)
if record then
  return {'parked', record, '', secevent}
end
record = redis.call('HGET', settled, jti) or redis.call('HGET', settled_before, jti)
if record then
  local time = redis.call('TIME')
  local ended, rest = record:match('^(%d+) (.*)$')
  if time[1] * 1000 + time[2] / 1000 - tonumber(ended) < dedupe then
    return {'settled', rest, '', ''}
  end
end
return redis.error_reply('NOSET no such SET on this stream')
