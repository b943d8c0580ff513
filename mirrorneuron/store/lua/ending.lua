-- ending: the end of a job. Follows the prelude in the scripts that can end one.

-- Ends the job. ARGV from *at*: end status, result JSON, summary JSON (event payload), channel, notice, channel of the
-- lease keepers, TTL of its keys (s; 0: none), count of agents, agents. Mail and states stay with the record, for a retry.
local function finish(at, now)
  -- Tell the lease keepers before their next renewal. `pcall`: no error of a hint may leave the end half written.
  local held = redis.call('ZRANGE', JOB .. ':claims', 0, -1)
  if #held > 0 then redis.pcall('PUBLISH', ARGV[at + 5], JOB) end
  for _, agent in ipairs(held) do
    redis.call('HSET', JOB .. ':agent:' .. agent, 'token', '', 'cut', 1) -- its run was interrupted
  end
  redis.call('DEL', JOB .. ':claims')
  for pool in string.gmatch(pools, '%S+') do redis.call('DEL', JOB .. ':ready:' .. pool) end
  status = ARGV[at]
  redis.call('HSET', JOB, 'status', status, 'result', ARGV[at + 1], 'finished_at', now, 'updated_at', now,
    'idle_since', '')
  record('job_' .. status, '', ARGV[at + 2])
  local keep = tonumber(ARGV[at + 6])
  if keep > 0 then
    redis.call('EXPIRE', JOB, keep)
    for _, suffix in ipairs(JOB_SUFFIXES) do redis.call('EXPIRE', JOB .. suffix, keep) end
    for i = at + 8, at + 7 + tonumber(ARGV[at + 7]) do
      redis.call('EXPIRE', JOB .. ':agent:' .. ARGV[i], keep)
      redis.call('EXPIRE', JOB .. ':mail:' .. ARGV[i], keep)
    end
  end
  redis.pcall('PUBLISH', ARGV[at + 3], ARGV[at + 4])
end
