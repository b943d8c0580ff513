-- renew: renew the lease of the claims of one token.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 token   4 lease (ms)
--       5 'alone' if the run begins now, and no other run of its pool goes on in its worker; or ''   6.. agents
-- Reply RENEWED | STALE (one of the claims is lost; a loss that was counted for it is taken back) | ENDED | MISSING
if not status then return 'MISSING' end
if not LIVE[status] then return 'ENDED' end
if run ~= ARGV[2] then return 'STALE' end
local now = clock(ARGV[1])
local all = true
for i = 6, #ARGV do all = holds(ARGV[i], ARGV[3]) and all end
if not all then return 'STALE' end
for i = 6, #ARGV do
  redis.call('ZADD', JOB .. ':claims', 'XX', now + tonumber(ARGV[4]), ARGV[i])
  if ARGV[5] == 'alone' then redis.call('HSET', JOB .. ':agent:' .. ARGV[i], 'alone', ARGV[3]) end
end
return 'RENEWED'
