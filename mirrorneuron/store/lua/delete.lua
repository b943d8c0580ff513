-- delete: delete an ended job with all its keys.
-- KEYS  1 job HASH
-- ARGV  1.. agents
-- Reply SETTLED | REFUSED (it has not ended) | MISSING    Events: none
if not status then return 'MISSING' end
if LIVE[status] then return 'REFUSED' end
for _, agent in ipairs(ARGV) do redis.call('UNLINK', JOB .. ':agent:' .. agent, JOB .. ':mail:' .. agent) end
for _, suffix in ipairs(JOB_SUFFIXES) do redis.call('UNLINK', JOB .. suffix) end
redis.call('UNLINK', JOB)
return 'SETTLED'
