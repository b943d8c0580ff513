-- pause_resume: pause or resume a job. Idempotent.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 'paused' or 'running'   3 event payload JSON or ''
-- Reply {SETTLED | REFUSED (the job is pending) | ENDED | MISSING, status, waiting}    Events: job_paused, job_resumed
if not status then return { 'MISSING', '', {} } end
if not LIVE[status] then return { 'ENDED', status, {} } end
local from = { paused = 'running', running = 'paused' }
local now = clock(ARGV[1])
if status == ARGV[2] then return { 'SETTLED', status, waiting_anew(now) } end
if status ~= from[ARGV[2]] then return { 'REFUSED', status, {} } end
status = ARGV[2]
redis.call('HSET', JOB, 'status', status, 'updated_at', now)
if status == 'running' then redis.call('HSET', JOB, 'idle_since', '', 'resumed_at', now) end -- a pause does not count as idle or waiting time
redis.call('HINCRBY', JOB, 'revision', 1)
record(status == 'paused' and 'job_paused' or 'job_resumed', '', ARGV[3])
return { 'SETTLED', status, waiting_anew(now) } -- no agent was announced while the job was paused
