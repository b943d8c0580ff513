-- create: create a job with its initial mail. Idempotent by job id, bundle and inputs.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 bundle digest   3 digest of the inputs   4 static job map JSON   5 pools, separated by blanks
--       6 names of all agents (JSON)   7 job time-out (ms) or ''   8 idle time-out (ms) or ''
--       9 maximum of workers that a run may lose   10 recovery mode   11 count of agents   12 count of messages
--       then agent, pool, threshold, batch_max for each agent that is not a plain light one; then agent, message JSON each
-- Reply CREATED | EXISTS | CONFLICT, and the job's status    Events: job_pending, job_validated
if status then
  local same = digest == ARGV[2] and redis.call('HGET', JOB, 'inputs') == ARGV[3]
  return { same and 'EXISTS' or 'CONFLICT', status }
end
local now = clock(ARGV[1])
redis.call('HSET', JOB, 'status', 'pending', 'run', 1, 'revision', 0, 'digest', ARGV[2], 'inputs', ARGV[3], 'static', ARGV[4],
  'pools', ARGV[5], 'submitted_at', now, 'updated_at', now,
  'agents', ARGV[6], 'timeout_ms', ARGV[7], 'idle_timeout_ms', ARGV[8], 'max_losses', ARGV[9], 'recovery', ARGV[10])
record('job_pending', '', '')
record('job_validated', '', '')
local at, bytes = 13, 0
for _ = 1, tonumber(ARGV[11]) do
  redis.call('HSET', JOB .. ':agent:' .. ARGV[at], 'pool', ARGV[at + 1], 'threshold', ARGV[at + 2], 'batch_max', ARGV[at + 3])
  at = at + 4
end
for _ = 1, tonumber(ARGV[12]) do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[at], ARGV[at + 1])
  evaluate(ARGV[at], now)
  at, bytes = at + 2, bytes + #ARGV[at + 1]
end
count_mail(bytes)
return { 'CREATED', 'pending' }
