-- log: keep what running commands of a job have printed; the oldest makes way for it.
-- KEYS  1 job HASH
-- ARGV  1 bytes kept of the job   2 seconds to keep them once it has ended (0: for ever)
--       then agent, stream, text for each chunk
-- Reply LOGGED | MISSING
if not status then return 'MISSING' end
local logs, size = JOB .. ':logs', tonumber(redis.call('HGET', JOB, 'log_bytes') or '0')
for i = 3, #ARGV, 3 do
  redis.call('XADD', logs, '*', 'a', ARGV[i], 's', ARGV[i + 1], 't', ARGV[i + 2])
  size = size + #ARGV[i + 2]
end
while size > tonumber(ARGV[1]) do
  local oldest = redis.call('XRANGE', logs, '-', '+', 'COUNT', 1)[1]
  if not oldest then break end
  size = size - #oldest[2][6]
  redis.call('XDEL', logs, oldest[1])
end
redis.call('HSET', JOB, 'log_bytes', size)
-- What was printed last may come after the end.
if not LIVE[status] and ARGV[2] ~= '0' then redis.call('EXPIRE', logs, ARGV[2]) end
return 'LOGGED'
