-- claim: take agents that are due, under one token, with a lease. A pending job is opened first if asked to.
-- Idempotent by token: asked again, it returns what this token holds.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 token   4 node   5 lease (ms)   6 lease event JSON
--       7 most messages   8 most bytes of mail   9 'open' or ''   10 one agent, or '' for any
--       11.. pool, most agents: the first pool that has any is taken from (with 10: the agent's pool, 1)
-- Reply {CLAIMED | PAUSED | STALE | ENDED | MISSING, moves, 1 if the job is idle, waiting, claims}: see prelude
-- Events: job_scheduled, job_running, executor_lease_acquired
if not status then return { 'MISSING', 0, 0, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] then return { 'STALE', 0, 0, {}, {} } end
local now = clock(ARGV[1])
if ARGV[9] == 'open' and status == 'pending' then
  redis.call('HSET', JOB, 'status', 'running', 'started_at', now, 'updated_at', now)
  status = 'running'
  record('job_scheduled', '', ARGV[6])
  record('job_running', '', '')
  for pool in string.gmatch(pools, '%S+') do
    newly[pool] = redis.call('ZCARD', JOB .. ':ready:' .. pool)
  end
end
local wanted = {}
for i = 11, #ARGV do wanted[#wanted + 1] = ARGV[i] end
local c = { token = ARGV[3], node = ARGV[4], lease = tonumber(ARGV[5]), lease_event = ARGV[6], now = now,
  messages = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]) }
local claims = {}
if not redis.call('SET', JOB .. ':op:' .. c.token, '1', 'NX', 'PX', 2 * c.lease) then
  for _, agent in ipairs(redis.call('ZRANGE', JOB .. ':claims', 0, -1)) do -- this token was here: its reply was lost
    local h = redis.call('HMGET', JOB .. ':agent:' .. agent, 'token', 'pool')
    if h[1] == c.token then claims[#claims + 1] = take(agent, h[2] or 'light', now, c) end
  end
elseif ARGV[10] ~= '' then
  local score = redis.call('ZSCORE', JOB .. ':ready:' .. wanted[1], ARGV[10])
  if status == 'running' and score and tonumber(score) <= now then
    claims[1] = take(ARGV[10], wanted[1], tonumber(score), c)
  end
else
  claims = take_ready(wanted, c)
end
local nothing = #claims == 0 and status == 'running' and idle()
return { status == 'paused' and 'PAUSED' or 'CLAIMED', redis.call('HGET', JOB, 'moves'), nothing and 1 or 0,
  waiting(now), claims }
