-- deliver: append one message from outside to an agent's mailbox. Idempotent by agent and message id, for the newest ids.
-- KEYS  1 job HASH
-- ARGV  1 now (ms or '')   2 agent   3 message id   4 message JSON   5 ids kept
--       6 stream entry of the dead letter that the message replays, which is deleted; or ''
--       7 bytes of mail that a job may have
-- Reply {DELIVERED | DUPLICATE | FULL (of mail) | GONE (the entry does not exist) | ENDED | MISSING, status, waiting}
if not status then return { 'MISSING', '', {} } end
if not LIVE[status] then return { 'ENDED', status, {} } end
local now, ids, name = clock(ARGV[1]), JOB .. ':delivered', ARGV[2] .. '\n' .. ARGV[3]
if redis.call('ZSCORE', ids, name) then return { 'DUPLICATE', status, waiting_anew(now) } end
if not mail_fits(#ARGV[4], tonumber(ARGV[7])) then return { 'FULL', status, {} } end
if ARGV[6] ~= '' and not drop_dead(ARGV[6]) then return { 'GONE', status, {} } end
redis.call('ZADD', ids, now, name)
redis.call('ZREMRANGEBYRANK', ids, 0, -1 - tonumber(ARGV[5]))
redis.call('RPUSH', JOB .. ':mail:' .. ARGV[2], ARGV[4])
count_mail(#ARGV[4])
redis.call('HINCRBY', JOB, 'revision', 1)
redis.call('HSET', JOB, 'updated_at', now, 'idle_since', '')
evaluate(ARGV[2], now)
return { 'DELIVERED', status, waiting(now) }
