-- claim: claim ready agents under one token, with a lease. With 'open', a pending job becomes running first.
-- Idempotent by token: a repeated call returns the claims of this token.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 token   4 node   5 lease (ms)   6 lease event JSON
--       7 maximum of messages   8 maximum of bytes of mail   9 'open' or ''   10 bundle digest
--       11 count of wanted pools
--       then pool, maximum of agents for each: agents of the first pool that has any are claimed;
--       then agents: the first, of the one wanted pool, is claimed if it is due, and those after it up to the first
--            that is claimed or has mail, so that they can handle its messages in the same commit
-- Reply {CLAIMED | PAUSED | STALE | ENDED | MISSING, revision, 1 if the job is idle, waiting, claims}: see prelude
-- Events: job_scheduled, job_running, executor_lease_acquired
if not status then return { 'MISSING', 0, 0, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] or digest ~= ARGV[10] then return { 'STALE', 0, 0, {}, {} } end
local now = clock(ARGV[1])
local c = { token = ARGV[3], node = ARGV[4], lease = tonumber(ARGV[5]), lease_event = ARGV[6], now = now,
  messages = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]) }
local agents = 12 + 2 * tonumber(ARGV[11])
if ARGV[9] == 'open' and status == 'pending' then
  redis.call('HSET', JOB, 'status', 'running', 'started_at', now, 'updated_at', now)
  status = 'running'
  record('job_scheduled', '', ARGV[6])
  record('job_running', '', '')
  for pool in string.gmatch(pools, '%S+') do newly[pool] = redis.call('ZCARD', JOB .. ':ready:' .. pool) end
end
local mark = JOB .. ':op:' .. c.token
if status == 'paused' and redis.call('EXISTS', mark) == 0 then return { 'PAUSED', 0, 0, {}, {} } end
if not redis.call('SET', mark, '1', 'NX', 'PX', REMEMBERED) then return replay('CLAIMED', c) end

local claims = {}
if agents > #ARGV then
  local wanted = {}
  for i = 12, agents - 1 do wanted[#wanted + 1] = ARGV[i] end
  claims = claim_ready(wanted, c)
elseif status == 'running' then
  local score = redis.call('ZSCORE', JOB .. ':ready:' .. ARGV[12], ARGV[agents])
  if score and tonumber(score) <= now then
    claims[1] = claim_one(ARGV[agents], ARGV[12], tonumber(score), c)
    for i = agents + 1, #ARGV do
      local h = redis.call('HMGET', JOB .. ':agent:' .. ARGV[i], 'token', 'pool')
      if (h[1] or '') ~= '' or redis.call('LLEN', JOB .. ':mail:' .. ARGV[i]) > 0 then break end
      claims[#claims + 1] = claim_one(ARGV[i], h[2] or 'light', now, c, true)
    end
  end
end
local nothing = #claims == 0 and status == 'running' and idle()
return { 'CLAIMED', revision, nothing and 1 or 0, waiting(now), claims }
