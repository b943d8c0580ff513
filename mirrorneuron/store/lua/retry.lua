-- retry: continue a failed or cancelled job as another run, so that no commit of an earlier run is accepted.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 agent to start from, or ''   3 event payload JSON   4 number of the run that has ended
--       5 count of agents to clear
--       then agent, threshold for each of these (first the start, then all downstream of it); then all agents of the job
-- Reply {SETTLED | REFUSED | MISSING, status, waiting, run}    Events: job_recovery_started, job_running, mail_cleared
if not status then return { 'MISSING', '', {}, 0 } end
local now = clock(ARGV[1])
-- A repeated call, if the run number is another one. The new run may have ended as well.
if status == 'running' or run ~= ARGV[4] then return { 'SETTLED', status, waiting_anew(now), tonumber(run) } end
if status ~= 'failed' and status ~= 'cancelled' then return { 'REFUSED', status, {}, 0 } end
local first = 6
local all = first + 2 * tonumber(ARGV[5])
redis.call('PERSIST', JOB)
for _, suffix in ipairs(JOB_SUFFIXES) do redis.call('PERSIST', JOB .. suffix) end
run = redis.call('HINCRBY', JOB, 'run', 1)
status = 'running'
redis.call('HSET', JOB, 'status', status, 'result', '', 'finished_at', '', 'idle_since', '', 'updated_at', now,
  'counted_from', now)
redis.call('HINCRBY', JOB, 'revision', 1)
record('job_recovery_started', ARGV[2], ARGV[3])
record('job_running', '', '')
redis.call('HSETNX', JOB, 'started_at', now) -- the job may have been cancelled while it was pending
local again, kept = {}, 0
if ARGV[2] ~= '' then -- its last input: the interrupted mail, else the last consumed message, else the first mail
  local h = redis.call('HMGET', JOB .. ':agent:' .. ARGV[2], 'last', 'error', 'losses', 'cut', 'batch_max')
  local was_at_it = (h[2] or '') ~= '' or (h[3] or '') ~= '' or (h[4] or '') ~= ''
  if was_at_it or not h[1] then -- as many messages as one run consumes
    again = redis.call('LRANGE', JOB .. ':mail:' .. ARGV[2], 0, (tonumber(h[5] or '') or tonumber(ARGV[first + 1]) or 1) - 1)
    kept = #again
  end
  if kept == 0 then again = { h[1] or nil } end
end
local bytes = 0
for i = first, all - 1, 2 do
  for _, message in ipairs(redis.call('LRANGE', JOB .. ':mail:' .. ARGV[i], 0, -1)) do bytes = bytes - #message end
  local lost = redis.call('LLEN', JOB .. ':mail:' .. ARGV[i]) - (i == first and kept or 0)
  if lost > 0 then record('mail_cleared', ARGV[i], '{"count":' .. lost .. '}') end
  redis.call('DEL', JOB .. ':mail:' .. ARGV[i])
  redis.call('HDEL', JOB .. ':agent:' .. ARGV[i], 'state', 'output', 'processed')
  redis.call('HSET', JOB .. ':agent:' .. ARGV[i], 'threshold', ARGV[i + 1])
end
for _, message in ipairs(again) do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[2], message)
  bytes = bytes + #message
end
count_mail(bytes)
for i = all, #ARGV do
  local key, box = JOB .. ':agent:' .. ARGV[i], JOB .. ':mail:' .. ARGV[i]
  redis.call('PERSIST', key)
  redis.call('PERSIST', box)
  if redis.call('EXISTS', key) == 1 then
    redis.call('HDEL', key, 'token', 'attempts', 'due', 'error', 'losses', 'lost', 'alone', 'beside', 'cut')
  end
  evaluate(ARGV[i], now)
end
return { 'SETTLED', status, waiting_anew(now), run }
