-- POSTs files in turn. Arguments after `--`: seconds of warm-up, a file that lists one path a line, then headers as
-- "Name: value". With a warm-up, the rate is the slope of a least-squares line through (time, answers so far) after it:
-- answers come in bursts of a batch, and a count between two moments would be off by up to a burst.
local ffi = require("ffi")
ffi.cdef [[
  struct argus_timespec { long seconds; long nanoseconds; };
  int clock_gettime(int clock, struct argus_timespec *now);
]]
local CLOCK_MONOTONIC = 1
local spec = ffi.new("struct argus_timespec")
local requests, at, thread = {}, 0, nil
-- Global, because `done` reads them from the thread.
count, sum_t, sum_tt, sum_tk = 0, 0, 0, 0

local function now()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, spec)
  return tonumber(spec.seconds) + tonumber(spec.nanoseconds) / 1e9
end

function setup(one)
  thread = one
end

function init(args)
  local headers = {}
  for i = 3, #args do
    local name, value = args[i]:match("^([^:]+):%s*(.*)$")
    headers[name] = value
  end
  for path in io.lines(args[2]) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
  local warm_up = tonumber(args[1])
  if warm_up > 0 then
    local began = now() + warm_up
    function response(status)
      local t = now() - began
      if t >= 0 and status == 200 then
        count = count + 1
        sum_t, sum_tt, sum_tk = sum_t + t, sum_tt + t * t, sum_tk + t * count
      end
    end
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local n, t = thread:get("count"), thread:get("sum_t")
  local good = summary.requests - summary.errors.status
  local rate = good / (summary.duration / 1e6)
  local spread = n * thread:get("sum_tt") - t * t
  if spread > 0 then
    rate = (n * thread:get("sum_tk") - t * n * (n + 1) / 2) / spread
  end
  local e = summary.errors
  io.write(string.format(
    'RESULT {"per_s": %.6f, "p50_s": %.6f, "p99_s": %.6f, "requests": %d, "failed": %d}\n',
    rate, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, summary.requests,
    e.status + e.connect + e.read + e.write + e.timeout))
end
