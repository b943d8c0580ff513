-- log: append output of running commands of a job; the oldest output is deleted to make room.
-- KEYS  1 job HASH
-- ARGV  1 bytes kept of the job   2 seconds to keep the output after the end (0: for ever)
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
-- The last output may arrive after the end of the job.
if not LIVE[status] and ARGV[2] ~= '0' then redis.call('EXPIRE', logs, ARGV[2]) end
return 'LOGGED'
