-- finish: end a live job from outside its runs: its bundle is lost, it timed out, or it is cancelled.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number or '' for any   3.. the end, as `finish` in `ending` reads it
-- Reply SETTLED | STALE | ENDED | MISSING    Events: job_completed | job_failed | job_cancelled
if not status then return 'MISSING' end
if not LIVE[status] then return 'ENDED' end
if ARGV[2] ~= '' and run ~= ARGV[2] then return 'STALE' end
finish(3, clock(ARGV[1]))
return 'SETTLED'
