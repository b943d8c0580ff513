-- sweep: free the claims of one job whose lease is over, and reply what else the job needs.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 lease (ms)   3 '1' after a gap in sweeping: claims get a fresh lease instead
--       4 '1' if the server's clock was set back   5 event payload JSON
-- Reply {word, run, digest, revision, waiting, agent, losses, time of the submission or the last retry, next look}
--       word  OPEN (pending) | RUNNING (or paused) | IDLE (not settled)
--             POISONED (agent: its claim stays, under no token of a worker)
--             LATE (older than its time-out) | OVERDUE (idle for longer than its idle time-out) | ENDED | MISSING
--       waiting  as in the prelude, with the agent that has been ready for longest, and since when it could be claimed (ms)
--       next look  when a lease or a delay ends, or a time-out may be over (ms); 0: only a change from outside needs one
-- Events: agent_recovery_started, agent_recovered, job_paused (recovery mode manual_recover)
local BESIDE = 3 -- losses beside other runs that count like one alone
if not status then return { 'MISSING', '0', '', '0', {}, '', 0, 0, 0 } end
local h = redis.call('HMGET', JOB, 'submitted_at', 'timeout_ms', 'idle_since', 'idle_timeout_ms',
  'max_losses', 'recovery', 'counted_from', 'started_at', 'resumed_at')
local now, lease, aged_from = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(h[7] or h[1])
local function answer(word, rows, agent, losses, look)
  return { word, run, digest, revision, rows or {}, agent or '', losses or 0, aged_from, look or 0 }
end
if not LIVE[status] then return answer('ENDED') end
local function past(since, limit)
  return (since or '') ~= '' and (limit or '') ~= '' and now - tonumber(since) >= tonumber(limit)
end
if past(aged_from, h[2]) then return answer('LATE') end
if status == 'running' and past(h[3], h[4]) then return answer('OVERDUE') end

local claims = JOB .. ':claims'
if ARGV[3] == '1' then
  -- Once for one gap: a claim that was not renewed since its last fresh lease gets no other one.
  local held = redis.call('ZRANGE', claims, 0, -1, 'WITHSCORES')
  for i = 1, #held, 2 do
    local key, ends = JOB .. ':agent:' .. held[i], tonumber(held[i + 1])
    if ends < now + lease and ends ~= tonumber(redis.call('HGET', key, 'fresh') or '') then
      redis.call('HSET', key, 'fresh', now + lease)
      redis.call('ZADD', claims, now + lease, held[i])
    end
  end
end
if ARGV[4] == '1' then
  -- No lease and no delay can end later than it would if it began now. A second lease: this sweep may be slow.
  for _, agent in ipairs(redis.call('ZRANGEBYSCORE', claims, '(' .. now + 2 * lease, '+inf')) do
    redis.call('ZADD', claims, now + 2 * lease, agent)
  end
  for pool in string.gmatch(pools, '%S+') do
    for _, agent in ipairs(redis.call('ZRANGEBYSCORE', JOB .. ':ready:' .. pool, '(' .. now, '+inf')) do
      local d = redis.call('HMGET', JOB .. ':agent:' .. agent, 'due', 'delay')
      local delay = (d[1] or '') ~= '' and tonumber(d[2] or '') or 0
      redis.call('ZADD', JOB .. ':ready:' .. pool, 'LT', now + delay, agent)
    end
  end
end
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', now)) do
  local key = JOB .. ':agent:' .. agent
  local a = redis.call('HMGET', key, 'losses', 'token', 'lost', 'alone', 'pool', 'beside')
  local losses, lost, beside = tonumber(a[1] or '') or 0, '', 0
  if losses > 0 then lost, beside = a[3] or '', tonumber(a[6] or '') or 0 end -- else of losses before the last commit
  if redis.call('LLEN', JOB .. ':mail:' .. agent) > 0 then
    -- After its first loss a message runs alone. A worker that dies before that most likely died of another message.
    local suspect = losses == 0 or (a[5] or 'light') == 'light' or a[4] == a[2] or a[2] == 'poisoned'
    if suspect or beside == BESIDE - 1 then losses, lost, beside = losses + 1, lost .. (a[2] or ''), 0 else beside = beside + 1 end
  end
  if losses > 0 and losses >= tonumber(h[5] or '3') then
    redis.call('HSET', key, 'token', 'poisoned') -- the old token cannot commit any more; the sweeper fails the job
    return answer('POISONED', {}, agent, losses)
  end
  redis.call('HSET', key, 'token', '', 'losses', losses, 'lost', lost, 'beside', beside)
  redis.call('ZREM', claims, agent)
  record('agent_recovery_started', agent, ARGV[5])
  if h[6] == 'manual_recover' and status == 'running' then
    status = 'paused'
    redis.call('HSET', JOB, 'status', status, 'updated_at', now)
    record('job_paused', agent, ARGV[5])
  end
  evaluate(agent, now)
  record('agent_recovered', agent, '')
end

local look = math.huge
local function look_at(moment) look = math.min(look, tonumber(moment or '') or math.huge) end
look_at(redis.call('ZRANGE', claims, 0, 0, 'WITHSCORES')[2])
if (h[2] or '') ~= '' then look_at(aged_from + h[2]) end
if status == 'running' then
  if (h[4] or '') ~= '' then look_at(((h[3] or '') == '' and now or h[3]) + h[4]) end
  for pool in string.gmatch(pools, '%S+') do
    look_at(redis.call('ZRANGEBYSCORE', JOB .. ':ready:' .. pool, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
  end
end
look = look < math.huge and look or 0
if status == 'pending' then return answer('OPEN', {}, '', 0, look) end
if status == 'running' and (h[3] or '') == '' and idle() then return answer('IDLE', {}, '', 0, look) end
local rows, since = waiting(now), math.max(tonumber(h[8] or '') or 0, tonumber(h[9] or '') or 0)
for _, row in ipairs(rows) do
  local oldest = redis.call('ZRANGE', JOB .. ':ready:' .. row[1], 0, 0, 'WITHSCORES')
  row[5], row[6] = oldest[1], math.max(tonumber(oldest[2]), since)
end
return answer('RUNNING', rows, '', 0, look)
