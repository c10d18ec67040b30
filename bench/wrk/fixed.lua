-- fixed: the same request again and again.

dofile(os.getenv('BENCH_SCRIPTS') .. '/told.lua')

function init()
  local headers = {['Content-Type'] = os.getenv('BENCH_TYPE'), ['Authorization'] = os.getenv('BENCH_AUTHORIZATION')}
  local body = os.getenv('BENCH_BODY')
  text = wrk.format(body and 'POST' or 'GET', os.getenv('BENCH_PATH'), headers, body)
end

function request()
  return text
end
