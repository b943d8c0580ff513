-- limits: what a job may keep in the store. Follows the prelude in the scripts that write or delete mail, events or dead
-- letters.
local DEAD_KEPT = 1000
local SMALL, TRIMMED = 256, 64 -- a payload that is not counted; events that are dropped at once

-- The bytes of the job's mail after a change by *bytes*. False if it would exceed *most* and grow.
local function mail_fits(bytes, most)
  return bytes <= 0 or (tonumber(redis.call('HGET', JOB, 'mail_bytes') or '') or 0) + bytes <= most
end

local function count_mail(bytes)
  if bytes ~= 0 then redis.call('HINCRBY', JOB, 'mail_bytes', bytes) end
end

-- Drops the oldest events above *most* events, or *most_bytes* of payloads. *bytes*: of the payloads that were added.
local function trim_events(bytes, most, most_bytes)
  local kept = tonumber(redis.call('HGET', JOB, 'event_bytes') or '') or 0
  local events, before = JOB .. ':events', kept
  kept = kept + bytes
  while kept > most_bytes or redis.call('XLEN', events) > most do
    local oldest = redis.call('XRANGE', events, '-', '+', 'COUNT', TRIMMED)
    if #oldest < TRIMMED then break end -- a few events are kept however large they are
    for _, event in ipairs(oldest) do
      redis.call('XDEL', events, event[1])
      if #event[2][6] > SMALL then kept = kept - #event[2][6] end
    end
  end
  if kept ~= before then redis.call('HSET', JOB, 'event_bytes', kept) end
end

-- Deletes a dead letter. Returns false if there is none with this entry.
local function drop_dead(entry)
  local found = redis.call('XRANGE', JOB .. ':dead', entry, entry)[1]
  if not found then return false end
  redis.call('XDEL', JOB .. ':dead', entry)
  redis.call('HINCRBY', JOB, 'dead_bytes', -#found[2][8])
  return true
end

-- Adds a dead letter, and drops the oldest ones above DEAD_KEPT or *most* bytes.
local function add_dead(id, agent, reason, message, most)
  local dead = JOB .. ':dead'
  redis.call('XADD', dead, '*', 'i', id, 'a', agent, 'r', reason, 'm', message)
  local bytes, count = redis.call('HINCRBY', JOB, 'dead_bytes', #message), redis.call('XLEN', dead)
  while count > DEAD_KEPT or (bytes > most and count > 1) do
    local oldest = redis.call('XRANGE', dead, '-', '+', 'COUNT', 1)[1]
    drop_dead(oldest[1])
    bytes, count = bytes - #oldest[2][8], count - 1
  end
end
