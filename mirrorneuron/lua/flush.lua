-- flush: agents that wait for a full batch may act on what they hold. Their next commit asks for full batches again.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3.. agents
-- Reply {FLUSHED | STALE | ENDED | MISSING, 0, 0, waiting, {}}: see prelude
if not status then return { 'MISSING', 0, 0, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] then return { 'STALE', 0, 0, {}, {} } end
local now = clock(ARGV[1])
for i = 3, #ARGV do
  if redis.call('LLEN', JOB .. ':mail:' .. ARGV[i]) > 0 then
    redis.call('HSET', JOB .. ':agent:' .. ARGV[i], 'need', 1)
    evaluate(ARGV[i], now)
  end
end
return { 'FLUSHED', 0, 0, waiting(now), {} }
