-- commit: what the runs of one claim did: mail consumed, states, mail sent, events, perhaps the end of the job; all or
-- nothing. The claim is given back, and the next agents may be claimed in the same breath.
-- Idempotent by token: a commit that has landed answers again, and changes nothing.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 token   4 node   5 lease (ms)   6 lease event JSON
--       7 most messages   8 most bytes of mail   9 next token   10 count of wanted pools
--       11 end status or ''   12 result JSON   13 summary JSON   14 channel   15 notice
--       16 count of agents   17 count of messages   18 count of events
--       then pool, most agents for each wanted pool (the first that has any is claimed from);
--       then agent, consumed, state, last, output, processed, need, attempts, delay (ms), error for each agent
--            ('' for state, last, output and need: unchanged); then agent, message JSON; then type, agent, payload JSON
-- Reply {COMMITTED | STALE | ENDED | MISSING, moves, 1 if the job is idle, waiting, claims}: see prelude
-- Events: those given; job_completed | job_failed; executor_lease_requested, executor_lease_acquired
if not status then return { 'MISSING', 0, 0, {}, {} } end
local now, token, at = clock(ARGV[1]), ARGV[3], 19
local c = { token = ARGV[9], node = ARGV[4], lease = tonumber(ARGV[5]), lease_event = ARGV[6], now = now,
  messages = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]) }
local wanted = {}
for _ = 1, 2 * tonumber(ARGV[10]) do wanted[#wanted + 1], at = ARGV[at], at + 1 end
local agents = tonumber(ARGV[16])

local landed = redis.call('HGET', JOB .. ':agent:' .. ARGV[at], 'done') == token
if landed and status == ARGV[11] then return { 'COMMITTED', 0, 0, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] then return { 'STALE', 0, 0, {}, {} } end
if landed then
  local claims = {}
  for _, agent in ipairs(redis.call('ZRANGE', JOB .. ':claims', 0, -1)) do
    local h = redis.call('HMGET', JOB .. ':agent:' .. agent, 'token', 'pool')
    if h[1] == c.token then claims[#claims + 1] = take(agent, h[2] or 'light', now, c) end
  end
  local left = waiting(now)
  for _, row in ipairs(left) do row[3] = row[2] end -- who was told of them is not known: tell again
  return { 'COMMITTED', redis.call('HGET', JOB, 'moves'), idle() and 1 or 0, left, claims }
end
for i = 0, agents - 1 do
  if redis.call('HGET', JOB .. ':agent:' .. ARGV[at + 10 * i], 'token') ~= token then
    return { 'STALE', 0, 0, {}, {} }
  end
end

local touched = at
for _ = 1, agents do
  local agent, key = ARGV[at], JOB .. ':agent:' .. ARGV[at]
  local consumed = tonumber(ARGV[at + 1])
  if consumed > 0 then redis.call('LTRIM', JOB .. ':mail:' .. agent, consumed, -1) end
  local set = { 'token', '', 'done', token, 'processed', ARGV[at + 5], 'attempts', ARGV[at + 7],
    'due', ARGV[at + 8] == '' and '' or now + tonumber(ARGV[at + 8]), 'error', ARGV[at + 9] }
  for name, offset in pairs({ state = 2, last = 3, output = 4, need = 6 }) do
    if ARGV[at + offset] ~= '' then set[#set + 1], set[#set + 2] = name, ARGV[at + offset] end
  end
  redis.call('HSET', key, unpack(set))
  redis.call('ZREM', JOB .. ':claims', agent)
  at = at + 10
end
local outgoing = at
for _ = 1, tonumber(ARGV[17]) do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[at], ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[18]) do
  record(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  at = at + 3
end
local moves = redis.call('HINCRBY', JOB, 'moves', 1)
if ARGV[11] ~= '' then
  finish({ status = ARGV[11], result = ARGV[12], summary = ARGV[13], channel = ARGV[14], notice = ARGV[15] }, now)
  return { 'COMMITTED', moves, 0, {}, {} }
end
redis.call('HSET', JOB, 'updated_at', now, 'idle_since', '')
for i = 0, agents - 1 do evaluate(ARGV[touched + 10 * i], now) end
for i = 0, tonumber(ARGV[17]) - 1 do evaluate(ARGV[outgoing + 2 * i], now) end
local claims = take_ready(wanted, c)
local nothing = #claims == 0 and status == 'running' and idle()
return { 'COMMITTED', moves, nothing and 1 or 0, waiting(now), claims }
