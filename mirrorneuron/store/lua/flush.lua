-- flush: in an idle job, make agents ready that wait for a full batch, if nothing has changed since the job was found idle.
-- Their next commit sets the threshold to a full batch again. Idempotent: a repeated call replies the same.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 revision at which it was idle   4.. agents
-- Reply {FLUSHED | MOVED | STALE | ENDED | MISSING, revision, 0, waiting, {}}: see prelude
if not status then return { 'MISSING', 0, 0, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] then return { 'STALE', 0, 0, {}, {} } end
local now = clock(ARGV[1])
if status ~= 'running' or revision ~= ARGV[3] then return { 'MOVED', revision, 0, {}, {} } end
if idle() then
  for i = 4, #ARGV do
    if redis.call('LLEN', JOB .. ':mail:' .. ARGV[i]) > 0 then
      redis.call('HSET', JOB .. ':agent:' .. ARGV[i], 'threshold', 1)
      evaluate(ARGV[i], now)
    end
  end
end
return { 'FLUSHED', revision, 0, waiting_anew(now), {} }
