-- told: what every script has: counters of each thread, and one line of figures when wrk is done.

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
  thread:set('number', #threads)
end

function done(summary, latency)
  local sets, wrong = 0, 0
  for _, thread in ipairs(threads) do
    sets = sets + (thread:get('sets') or 0)
    wrong = wrong + (thread:get('wrong') or 0)
  end
  local errors = summary.errors
  print(string.format('BENCH %d %d %d %d %d %d', summary.requests, summary.duration, sets, wrong,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
