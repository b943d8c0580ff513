-- settle: end an idle job or record that it is idle, if nothing has changed since it was found idle.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 revision at which it was idle   4 'wait', or the end as `finish` in `ending`
--       reads it
-- Reply SETTLED | MOVED | STALE | ENDED | MISSING    Events: job_idle, or job_completed | job_failed
if not status then return 'MISSING' end
if not LIVE[status] then return 'ENDED' end
if run ~= ARGV[2] then return 'STALE' end
if status ~= 'running' or revision ~= ARGV[3] or not idle() then return 'MOVED' end
local now = clock(ARGV[1])
if ARGV[4] == 'wait' then
  if (redis.call('HGET', JOB, 'idle_since') or '') == '' then
    redis.call('HSET', JOB, 'idle_since', now)
    record('job_idle', '', '')
  end
else
  finish(4, now)
end
return 'SETTLED'
