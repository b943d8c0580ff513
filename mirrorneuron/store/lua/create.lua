-- create: create a job with its initial mail, and announce it. Idempotent by job id, bundle and inputs.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 bundle digest   3 digest of the inputs   4 static job map JSON   5 pools, separated by blanks
--       6 names of all agents (JSON)   7 job time-out (ms) or ''   8 idle time-out (ms) or ''
--       9 maximum of workers that a run may lose   10 recovery mode
--       11 a line of agent, pool, threshold, batch_max, with tabs between, for each agent that is not a plain light one
--       12 key of the queue if it is on this server, or ''   13 message that announces the job   14 key of the manifest
--       15 key of the payloads, or of the manifest again   16.. agent, message JSON each
-- Reply CREATED | EXISTS | CONFLICT, the job's status, and 1 if it was announced    Events: job_pending, job_validated

-- Announces a pending job. Not without its bundle: the worker that opened it would fail it.
-- An error, such as a queue of another type, must not leave half a job behind.
local function announce()
  if ARGV[12] == '' or redis.pcall('EXISTS', ARGV[14], ARGV[15]) ~= 2 then return 0 end
  return type(redis.pcall('LPUSH', ARGV[12], ARGV[13])) == 'number' and 1 or 0
end

if status then
  local same = digest == ARGV[2] and redis.call('HGET', JOB, 'inputs') == ARGV[3]
  return { same and 'EXISTS' or 'CONFLICT', status, same and status == 'pending' and announce() or 0 }
end
local now = clock(ARGV[1])
redis.call('HSET', JOB, 'status', 'pending', 'run', 1, 'revision', 0, 'digest', ARGV[2], 'inputs', ARGV[3], 'static', ARGV[4],
  'pools', ARGV[5], 'submitted_at', now, 'updated_at', now,
  'agents', ARGV[6], 'timeout_ms', ARGV[7], 'idle_timeout_ms', ARGV[8], 'max_losses', ARGV[9], 'recovery', ARGV[10])
record('job_pending', '', '')
record('job_validated', '', '')
for agent, pool, threshold, most in string.gmatch(ARGV[11], '([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\n]*)\n') do
  redis.call('HSET', JOB .. ':agent:' .. agent, 'pool', pool, 'threshold', threshold, 'batch_max', most)
end
local bytes = 0
for at = 16, #ARGV, 2 do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[at], ARGV[at + 1])
  evaluate(ARGV[at], now)
  bytes = bytes + #ARGV[at + 1]
end
count_mail(bytes)
return { 'CREATED', 'pending', announce() }
