-- create: create a job with its initial mail. Idempotent by job id and bundle.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 digest   3 static job map JSON   4 pools, separated by blanks
--       5 names of all agents (JSON)   6 job time-out (ms) or ''   7 idle time-out (ms) or ''
--       8 maximum of workers that a run may lose   9 recovery mode   10 count of agents   11 count of messages
--       then agent, pool, threshold, batch_max for each agent that is not a plain light one; then agent, message JSON each
-- Reply CREATED | EXISTS | CONFLICT, and the job's status    Events: job_pending, job_validated
if status then
  return { digest == ARGV[2] and 'EXISTS' or 'CONFLICT', status }
end
local now = clock(ARGV[1])
redis.call('HSET', JOB, 'status', 'pending', 'run', 1, 'revision', 0, 'digest', ARGV[2], 'static', ARGV[3],
  'pools', ARGV[4], 'submitted_at', now, 'updated_at', now,
  'agents', ARGV[5], 'timeout_ms', ARGV[6], 'idle_timeout_ms', ARGV[7], 'max_losses', ARGV[8], 'recovery', ARGV[9])
record('job_pending', '', '')
record('job_validated', '', '')
local at, bytes = 12, 0
for _ = 1, tonumber(ARGV[10]) do
  redis.call('HSET', JOB .. ':agent:' .. ARGV[at], 'pool', ARGV[at + 1], 'threshold', ARGV[at + 2], 'batch_max', ARGV[at + 3])
  at = at + 4
end
for _ = 1, tonumber(ARGV[11]) do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[at], ARGV[at + 1])
  evaluate(ARGV[at], now)
  at, bytes = at + 2, bytes + #ARGV[at + 1]
end
count_mail(bytes)
return { 'CREATED', 'pending' }
