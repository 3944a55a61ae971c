-- wrk: each request is the same batch under its own batch_id (as far apart as random ones), from one of ten thousand sessions behind
-- one of some addresses: one that sent all of it would be refused.
local head, middle, tail, key, run
local headers = {}
local count = 0

function init(arguments)
  local file = assert(io.open(arguments[1]))
  local body = file:read("*a")
  file:close()
  head, middle, tail = body:match("^(.-)@BATCH@(.-)@SESSION@(.*)$")
  key, run = arguments[2], tonumber(arguments[3])
  wrk.method = "POST"
  wrk.headers["Authorization"] = "Bearer " .. key
  wrk.headers["Content-Type"] = "application/json"
  for address in arguments[4]:gmatch("[^,]+") do
    table.insert(headers, {
      ["Authorization"] = wrk.headers["Authorization"], ["Content-Type"] = "application/json", ["X-Forwarded-For"] = address,
    })
  end
end

function request()
  count = count + 1
  local batch = string.format("%08x-%04x-4000-8000-%012x", count * 2654435761 % 4294967296, run, count)
  local session = string.format("%08x-0000-4000-9000-%012x", run, count % 10000)
  return wrk.format(nil, nil, headers[count % #headers + 1], head .. batch .. middle .. session .. tail)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_s":%f,"p50_ms":%f,"p99_ms":%f,"refused":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
