-- prelude: functions that the scripts of a job share. Prepended to each script; KEYS[1] is always the job HASH.
-- User JSON is an opaque string: the scripts neither decode nor encode it.
local JOB = KEYS[1]
local head = redis.call('HMGET', JOB, 'status', 'run', 'pools', 'digest', 'revision')
local status, run, pools, digest, revision = head[1], head[2], head[3] or '', head[4], head[5]
local REMEMBERED = 60000 -- ms for which a repeated claim or commit is recognized
local JOB_SUFFIXES = { ':events', ':delivered', ':dead', ':logs' } -- suffixes of the job's keys that do not belong to one agent
local LIVE = { pending = true, running = true, paused = true }
local newly = {} -- pool -> number of agents that this script made ready

local function clock(given) -- milliseconds: ARGV in tests, server time otherwise
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function record(kind, agent, payload)
  redis.call('XADD', JOB .. ':events', '*', 't', kind, 'a', agent, 'p', payload)
end

-- The definition of ready: unclaimed, and mail >= threshold (default 1). The score is the time from which the agent is due.
-- The status of the job is checked when agents are claimed, so a pause does not change the ready sets.
local function evaluate(agent, now)
  local depth = redis.call('LLEN', JOB .. ':mail:' .. agent)
  if depth == 0 then return end
  local h = redis.call('HMGET', JOB .. ':agent:' .. agent, 'token', 'threshold', 'pool', 'due')
  if (h[1] or '') ~= '' or depth < (tonumber(h[2] or '') or 1) then return end
  local pool, due = h[3] or 'light', tonumber(h[4] or '') or 0
  if redis.call('ZADD', JOB .. ':ready:' .. pool, 'NX', math.max(now, due), agent) == 0 then return end
  if pool ~= 'light' then record('executor_lease_requested', agent, '{"pool":"' .. pool .. '"}') end
  if due <= now then newly[pool] = (newly[pool] or 0) + 1 end
end

-- True if *token* holds *agent*. If the sweep has freed its claim, its process lives, so its loss does not count.
local function holds(agent, token)
  local key = JOB .. ':agent:' .. agent
  local h = redis.call('HMGET', key, 'token', 'lost', 'losses')
  if h[1] == token then return true end
  local from, to = string.find(h[2] or '', token, 1, true)
  if from and (h[3] or '') ~= '' then -- else another worker has committed since
    redis.call('HSET', key, 'lost', string.sub(h[2], 1, from - 1) .. string.sub(h[2], to + 1),
      'losses', math.max(0, (tonumber(h[3] or '') or 0) - 1))
  end
  return false
end

-- Claims *agent*. c: token, node, lease (ms), now, lease_event; messages and bytes are the budget left for mail.
-- *empty*: the caller knows that it has no mail. Returns {agent, state, processed, attempts, waited ms, {message...}, losses}.
local function claim_one(agent, pool, score, c, empty)
  local key, box = JOB .. ':agent:' .. agent, JOB .. ':mail:' .. agent
  local h = redis.call('HMGET', key, 'state', 'processed', 'attempts', 'batch_max', 'threshold', 'losses')
  local most = empty and 0 or tonumber(h[4] or '') or math.max(1000, tonumber(h[5] or '') or 1)
  if not empty then redis.call('ZREM', JOB .. ':ready:' .. pool, agent) end
  redis.call('HSET', key, 'token', c.token, 'node', c.node, 'claimed_at', c.now, 'due', '')
  redis.call('ZADD', JOB .. ':claims', c.now + c.lease, agent)
  local mail, at, first = {}, 0, true
  while at < most and (first or c.bytes > 0) do
    local some = redis.call('LRANGE', box, at, math.min(most, at + 64) - 1)
    for _, message in ipairs(some) do
      if first or c.bytes > 0 then
        mail[#mail + 1], c.bytes, first = message, c.bytes - #message, false
      end
    end
    if #some < 64 then break end
    at = at + 64
  end
  c.messages = c.messages - #mail
  if pool ~= 'light' then record('executor_lease_acquired', agent, c.lease_event) end
  return { agent, h[1] or '', h[2] or '0', h[3] or '0', math.max(0, c.now - score), mail, h[6] or '0' }
end

-- Claims due agents of the first pool of *wanted* ({pool, maximum} ...) that has any. Claims none if the job is not running.
local function claim_ready(wanted, c)
  local claims = {}
  if status ~= 'running' then return claims end
  for i = 1, #wanted, 2 do
    local set = JOB .. ':ready:' .. wanted[i]
    local due = redis.call('ZRANGEBYSCORE', set, '-inf', c.now, 'WITHSCORES', 'LIMIT', 0, wanted[i + 1])
    for j = 1, #due, 2 do
      if j > 1 and (c.messages <= 0 or c.bytes <= 0) then break end
      claims[#claims + 1] = claim_one(due[j], wanted[i], tonumber(due[j + 1]), c)
    end
    if #claims > 0 then break end
  end
  return claims
end

-- The due agents: {pool, count, how many of these this script made ready, the agent if the count is 1} for each pool.
local function waiting(now)
  local list = {}
  if status ~= 'running' then return list end
  for pool in string.gmatch(pools, '%S+') do
    local due = redis.call('ZCOUNT', JOB .. ':ready:' .. pool, '-inf', now)
    if due > 0 then
      local one = due == 1 and redis.call('ZRANGE', JOB .. ':ready:' .. pool, 0, 0)[1] or ''
      list[#list + 1] = { pool, due, math.min(due, newly[pool] or 0), one }
    end
  end
  return list
end

-- Like `waiting`, but counts all due agents as new: they were not announced, or the reply with them was lost.
local function waiting_anew(now)
  local list = waiting(now)
  for _, row in ipairs(list) do row[3] = row[2] end
  return list
end

local function idle() -- True if no agent is claimed, and none is ready now or later.
  if redis.call('ZCARD', JOB .. ':claims') > 0 then return false end
  for pool in string.gmatch(pools, '%S+') do
    if redis.call('ZCARD', JOB .. ':ready:' .. pool) > 0 then return false end
  end
  return true
end

-- Replies again to a claim or commit whose reply was lost: with the claims of its token, and all due agents.
local function replay(word, c)
  local claims = {}
  for _, agent in ipairs(redis.call('ZRANGE', JOB .. ':claims', 0, -1)) do
    local h = redis.call('HMGET', JOB .. ':agent:' .. agent, 'token', 'pool')
    if h[1] == c.token then claims[#claims + 1] = claim_one(agent, h[2] or 'light', c.now, c) end
  end
  local left = waiting_anew(c.now)
  return { word, revision, #claims == 0 and status == 'running' and idle() and 1 or 0, left, claims }
end
