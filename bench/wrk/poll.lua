-- poll: poll for a page of SETs, each time with the acks of a page that came before. jtis and SETs have one length
-- each, so that the answer is cut, not parsed; what does not fit is counted as wrong.

dofile(os.getenv('BENCH_SCRIPTS') .. '/told.lua')

local page, jti_length = tonumber(os.getenv('BENCH_PAGE')), tonumber(os.getenv('BENCH_JTI'))
local path, form = os.getenv('BENCH_PATH'), os.getenv('BENCH_FORM') == '1'
local stride = jti_length + tonumber(os.getenv('BENCH_SET')) + 6   -- "jti":"SET",
local acks, first, last = {}, 1, 0
local letters, pairs_of = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', {}
sets, wrong = 0, 0

function init()
  headers = {['Content-Type'] = os.getenv('BENCH_TYPE'), ['Authorization'] = os.getenv('BENCH_AUTHORIZATION')}
  for i = 0, 4095 do
    local high, low = math.floor(i / 64) + 1, i % 64 + 1
    pairs_of[i] = letters:sub(high, high) .. letters:sub(low, low)
  end
end

local function base64(text)   -- of a text whose length is a multiple of three
  local out = {}
  for i = 1, #text, 3 do
    local a, b, c = text:byte(i, i + 2)
    local bits = a * 65536 + b * 256 + c
    out[#out + 1] = pairs_of[math.floor(bits / 4096)]
    out[#out + 1] = pairs_of[bits % 4096]
  end
  return table.concat(out)
end

function request()
  local settled = ''
  if first <= last then
    settled, acks[first] = ',"ack":[' .. acks[first] .. ']', nil
    first = first + 1
  end
  local body = '{"maxEvents":' .. page .. ',"returnImmediately":true' .. settled .. '}'
  if form then body = 'request=' .. base64(body .. (' '):rep(-#body % 3)) end
  return wrk.format('POST', path, headers, body)
end

function response(status, _, body)
  local _, at = body:find('"sets":{', 1, true)
  local jtis = {}
  for i = 1, page do
    local from = (at or 0) + 1 + (i - 1) * stride
    jtis[i] = body:sub(from, from + jti_length + 1)
  end
  local entry = jtis[page]
  if status ~= 200 or #entry ~= jti_length + 2 or entry:byte(1) ~= 34 or entry:byte(-1) ~= 34 or entry:byte(2) ~= 106 then
    wrong = wrong + 1
    if wrong == 1 then print(status, body:sub(1, 300)) end
    return
  end
  sets = sets + page
  last = last + 1
  acks[last] = table.concat(jtis, ',')
end
