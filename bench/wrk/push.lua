-- push: each request has the next line of a file for its body, never one twice; each thread has lines of its own.

dofile(os.getenv('BENCH_SCRIPTS') .. '/told.lua')

local lines, at = {}, 0
sets, wrong = 0, 0

function init()
  headers = {['Content-Type'] = os.getenv('BENCH_TYPE'), ['Authorization'] = os.getenv('BENCH_AUTHORIZATION')}
  local count = 0
  for line in io.lines(os.getenv('BENCH_FILE')) do
    count = count + 1
    if count % 2 == number % 2 then lines[#lines + 1] = line end
  end
end

function request()
  at = at + 1
  if not lines[at] then wrong = wrong + 1 end
  return wrk.format('POST', os.getenv('BENCH_PATH'), headers, lines[at] or 'ran out')
end
