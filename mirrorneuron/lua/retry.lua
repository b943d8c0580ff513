-- retry: a failed or cancelled job goes on, as another run, so that nothing of an earlier one can land.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 agent to begin with, or ''   3 event payload JSON   4 count of agents to clear
--       then agent, need for each of these (the one to begin with, and all behind it); then all agents of the job
-- Reply {SETTLED | REFUSED | MISSING, status, waiting, run}    Events: job_recovery_started, job_running
if not status then return { 'MISSING', '', {}, 0 } end
local now = clock(ARGV[1])
if status == 'running' then return { 'SETTLED', status, waiting_anew(now), tonumber(run) } end
if status ~= 'failed' and status ~= 'cancelled' then return { 'REFUSED', status, {}, 0 } end
local all = 5 + 2 * tonumber(ARGV[4])
redis.call('PERSIST', JOB)
for _, suffix in ipairs(BESIDE) do redis.call('PERSIST', JOB .. suffix) end
run = redis.call('HINCRBY', JOB, 'run', 1)
status = 'running'
redis.call('HSET', JOB, 'status', status, 'result', '', 'finished_at', '', 'idle_since', '', 'updated_at', now,
  'counted_from', now)
redis.call('HINCRBY', JOB, 'moves', 1)
record('job_recovery_started', ARGV[2], ARGV[3])
record('job_running', '', '')
redis.call('HSETNX', JOB, 'started_at', now) -- it may have been cancelled before it was opened
local again
if ARGV[2] ~= '' then -- its last input: the one that it was at, else the last that it consumed, else what came first
  local h = redis.call('HMGET', JOB .. ':agent:' .. ARGV[2], 'last', 'error', 'losses', 'cut')
  local was_at_it = (h[2] or '') ~= '' or (h[3] or '') ~= '' or (h[4] or '') ~= ''
  local first = redis.call('LINDEX', JOB .. ':mail:' .. ARGV[2], 0)
  again = was_at_it and first or h[1] or first
end
for i = 5, all - 1, 2 do
  redis.call('DEL', JOB .. ':mail:' .. ARGV[i])
  redis.call('HDEL', JOB .. ':agent:' .. ARGV[i], 'state', 'output', 'processed')
  redis.call('HSET', JOB .. ':agent:' .. ARGV[i], 'need', ARGV[i + 1])
end
if again then redis.call('RPUSH', JOB .. ':mail:' .. ARGV[2], again) end
for i = all, #ARGV do
  local key, box = JOB .. ':agent:' .. ARGV[i], JOB .. ':mail:' .. ARGV[i]
  redis.call('PERSIST', key)
  redis.call('PERSIST', box)
  if redis.call('EXISTS', key) == 1 then
    redis.call('HDEL', key, 'token', 'attempts', 'due', 'error', 'losses', 'cut')
  end
  evaluate(ARGV[i], now)
end
return { 'SETTLED', status, waiting_anew(now), run }
