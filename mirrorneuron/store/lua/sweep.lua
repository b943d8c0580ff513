-- sweep: free the claims of one job whose lease is over, and reply what else the job needs.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 lease (ms)   3 '1' after a gap in sweeping: every claim gets a new lease instead
--       4 first wait before a lost announcement is repeated (ms); doubles up to   5 longest wait (ms)
--       6 event payload JSON
-- Reply {word, run, digest, revision, waiting (rows to announce), agent, losses}
--       word  OPEN (pending: its chain was lost) | AGAIN (waiting was announced, and no worker came)
--             IDLE (not settled) | POISONED (agent: its claim stays, under no token of a worker)
--             LATE (older than its time-out) | OVERDUE (idle for longer than its idle time-out)
--             ENDED | MISSING | RUNNING (only waiting is to be announced: this sweep made it ready)
-- Events: agent_recovery_started, agent_recovered, job_paused (recovery mode manual_recover)
if not status then return { 'MISSING', '0', '', '0', {}, '', 0 } end
local h = redis.call('HMGET', JOB, 'submitted_at', 'timeout_ms', 'idle_since', 'idle_timeout_ms',
  'max_losses', 'recovery', 'announced_at', 'announced_wait', 'announced_revision', 'counted_from')
local function answer(word, rows, agent, losses) return { word, run, digest, revision, rows or {}, agent or '', losses or 0 } end
if not LIVE[status] then return answer('ENDED') end
local now, lease = clock(ARGV[1]), tonumber(ARGV[2])
local function past(since, limit)
  return (since or '') ~= '' and (limit or '') ~= '' and now - tonumber(since) >= tonumber(limit)
end
if past(h[10] or h[1], h[2]) then return answer('LATE') end
if status == 'running' and past(h[3], h[4]) then return answer('OVERDUE') end

local claims = JOB .. ':claims'
if ARGV[3] == '1' then
  for _, agent in ipairs(redis.call('ZRANGE', claims, 0, -1)) do
    redis.call('ZADD', claims, 'GT', now + lease, agent) -- GT: a delayed sweep must not undo a renewal
  end
end
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', claims, '-inf', now)) do
  local key = JOB .. ':agent:' .. agent
  local losses = tonumber(redis.call('HGET', key, 'losses') or '') or 0
  if redis.call('LLEN', JOB .. ':mail:' .. agent) > 0 then losses = losses + 1 end
  if losses > 0 and losses >= tonumber(h[5] or '3') then
    redis.call('HSET', key, 'token', 'poisoned') -- the old token cannot commit any more; the sweeper fails the job
    return answer('POISONED', {}, agent, losses)
  end
  redis.call('HSET', key, 'token', '', 'losses', losses)
  redis.call('ZREM', claims, agent)
  record('agent_recovery_started', agent, ARGV[6])
  if h[6] == 'manual_recover' and status == 'running' then
    status = 'paused'
    redis.call('HSET', JOB, 'status', status, 'updated_at', now)
    record('job_paused', agent, ARGV[6])
  end
  evaluate(agent, now)
  record('agent_recovered', agent, '')
end

-- A long queue is not a loss: wait, and double the wait each time, while the revision is unchanged.
local still = revision == h[9]
local wait = still and tonumber(h[8] or '') or tonumber(ARGV[4])
if not still then
  redis.call('HSET', JOB, 'announced_at', now, 'announced_wait', wait, 'announced_revision', revision)
elseif now - tonumber(h[7]) >= wait then
  local rows = waiting_anew(now)
  local told = status == 'pending' or #rows > 0 -- without a due agent, reset the wait for the next one
  redis.call('HSET', JOB, 'announced_at', now, 'announced_wait',
    told and math.min(2 * wait, tonumber(ARGV[5])) or ARGV[4])
  if status == 'pending' then return answer('OPEN') end
  return answer('AGAIN', rows)
end
if status == 'running' and (h[3] or '') == '' and idle() then return answer('IDLE') end
local fresh = {}
for _, row in ipairs(waiting(now)) do if row[3] > 0 then fresh[#fresh + 1] = row end end
return answer('RUNNING', fresh)
