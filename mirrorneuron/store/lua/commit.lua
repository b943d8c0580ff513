-- commit: write the runs of one claim, all or nothing: mail consumed, states, mail sent, events, perhaps the end of the
-- job. Releases the claims of the agents given, and may claim the next agents.
-- A claim may be committed in two parts: 'early' the runs that are over, while the last one goes on, and the rest later.
-- Idempotent by token and part: a repeated commit replies again and changes nothing.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 run number   3 token   4 node   5 lease (ms)   6 lease event JSON
--       7 maximum of messages   8 maximum of bytes of mail   9 next token   10 count of wanted pools
--       11 count of agents   12 count of messages   13 count of events   14 count of dead letters
--       15 bytes of mail that a job may have, and of dead letters   16 events kept   17 bytes of their payloads
--       18 'early', or 'idle' if the job shall end only if it is idle now, or ''
--       then pool, maximum of agents for each wanted pool (agents of the first that has any are claimed);
--       then agent, consumed, state, last, output, processed, threshold, attempts, delay (ms), error, inline, bytes of
--            the consumed mail, not_run (its losses still count) for each agent
--            ('' for state, last, output and threshold: unchanged; inline 1: it consumed mail sent within this commit,
--            so its mailbox must be empty, because older mail must be handled first; inline 2: it keeps its claim and
--            handles mail of this commit now, so its mailbox must be empty too);
--       then agent, message JSON for each message; then type, agent, payload JSON for each event;
--       then message id, agent, reason, message JSON for each dead letter;
--       then '' or the end, as `finish` in `ending` reads it
-- Reply {COMMITTED | MOVED | FULL | STALE | ENDED | MISSING, revision, 1 idle or 2 ended, waiting, claims}: see prelude
-- Events: those given; job_completed | job_failed; executor_lease_requested, executor_lease_acquired
if not status then return { 'MISSING', 0, 0, {}, {} } end
local FIELDS, CONSUMED, GOES_ON, most_bytes = 13, '1', '2', tonumber(ARGV[15])
local now, token, at = clock(ARGV[1]), ARGV[3], 19
local ends_idle = ARGV[18] == 'idle'
local mark = JOB .. ':op:' .. token .. (ARGV[18] == 'early' and ':early' or ':done')
local c = { token = ARGV[9], node = ARGV[4], lease = tonumber(ARGV[5]), lease_event = ARGV[6], now = now,
  messages = tonumber(ARGV[7]), bytes = tonumber(ARGV[8]) }
local wanted = {}
for _ = 1, 2 * tonumber(ARGV[10]) do wanted[#wanted + 1], at = ARGV[at], at + 1 end
local first, agents, sent = at, tonumber(ARGV[11]), tonumber(ARGV[12])
local outgoing = first + FIELDS * agents
local events = outgoing + 2 * sent
local dead = events + 3 * tonumber(ARGV[13])
local ending = dead + 4 * tonumber(ARGV[14])

local landed = redis.call('EXISTS', mark) == 1
if landed and status == ARGV[ending] then return { 'COMMITTED', 0, 2, {}, {} } end
if not LIVE[status] then return { 'ENDED', 0, 0, {}, {} } end
if run ~= ARGV[2] then return { 'STALE', 0, 0, {}, {} } end
if landed then return replay('COMMITTED', c) end
local all = true
for i = first, outgoing - 1, FIELDS do all = holds(ARGV[i], token) and all end
if not all then return { 'STALE', 0, 0, {}, {} } end
for i = first, outgoing - 1, FIELDS do
  local inline = ARGV[i + 10] == CONSUMED or ARGV[i + 10] == GOES_ON
  if inline and redis.call('LLEN', JOB .. ':mail:' .. ARGV[i]) > 0 then
    return { 'MOVED', 0, 0, {}, {} }
  end
end
local mail, payloads = 0, 0
for i = first, outgoing - 1, FIELDS do mail = mail - tonumber(ARGV[i + 11]) end
for i = outgoing, events - 1, 2 do mail = mail + #ARGV[i + 1] end
if sent > 0 and not mail_fits(mail, most_bytes) then return { 'FULL', 0, 0, {}, {} } end

local names = {}
for i = first, outgoing - 1, FIELDS do
  if ARGV[i + 10] ~= GOES_ON then
    names[#names + 1] = ARGV[i]
    local consumed = tonumber(ARGV[i + 1])
    if consumed > 0 then redis.call('LTRIM', JOB .. ':mail:' .. ARGV[i], consumed, -1) end
    local set = { 'token', '', 'processed', ARGV[i + 5], 'attempts', ARGV[i + 7],
      'due', ARGV[i + 8] == '' and '' or now + tonumber(ARGV[i + 8]), 'error', ARGV[i + 9] }
    if ARGV[i + 12] ~= '1' then set[#set + 1], set[#set + 2] = 'losses', '' end
    for name, offset in pairs({ state = 2, last = 3, output = 4, threshold = 6 }) do
      if ARGV[i + offset] ~= '' then set[#set + 1], set[#set + 2] = name, ARGV[i + offset] end
    end
    if ARGV[i + 8] ~= '' then set[#set + 1], set[#set + 2] = 'delay', ARGV[i + 8] end
    redis.call('HSET', JOB .. ':agent:' .. ARGV[i], unpack(set))
  end
end
redis.call('ZREM', JOB .. ':claims', unpack(names)) -- limited by the size of one claim, so unpack is safe
for i = outgoing, events - 1, 2 do
  redis.call('RPUSH', JOB .. ':mail:' .. ARGV[i], ARGV[i + 1])
end
for i = events, dead - 1, 3 do
  record(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if #ARGV[i + 2] > SMALL then payloads = payloads + #ARGV[i + 2] end
end
for i = dead, ending - 1, 4 do add_dead(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], most_bytes) end
count_mail(mail)
trim_events(payloads, tonumber(ARGV[16]), tonumber(ARGV[17]))
redis.call('SET', mark, '1', 'PX', REMEMBERED)
revision = redis.call('HINCRBY', JOB, 'revision', 1)
if ARGV[ending] ~= '' and not ends_idle then
  finish(ending, now)
  return { 'COMMITTED', revision, 2, {}, {} }
end
redis.call('HSET', JOB, 'updated_at', now, 'idle_since', '')
for i = first, outgoing - 1, FIELDS do evaluate(ARGV[i], now) end
for i = outgoing, events - 1, 2 do evaluate(ARGV[i], now) end
local claims = claim_ready(wanted, c)
local nothing = #claims == 0 and status == 'running' and idle()
if nothing and ends_idle then finish(ending, now) end
return { 'COMMITTED', revision, nothing and (ends_idle and 2 or 1) or 0, waiting(now), claims }
