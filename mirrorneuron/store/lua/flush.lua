-- flush: in a job that was seen idle, agents that wait for a full batch may act on what they hold, provided that nothing
-- has moved since. Their next commit asks for full batches again. Idempotent: asked again, it tells again.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 revision when it was seen idle   4.. agents
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
