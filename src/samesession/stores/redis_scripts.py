"""`merge` and `finish` in Redis' own language: one key and one round trip a script.

A session is a hash: ``m`` what is fixed (signed-in records begin with "s", anonymous with "a"),
``c`` the last commits of 12 bytes each, ``t`` times (seen, idle until, absolute; 8 bytes each),
``e`` the mark once it ended, and ``.name`` for each key of the application, so that none of theirs
can be one of ours. Times come from the caller: Redis' clock orders nothing, its expiry only cleans.

A change ends a near cache's tracking of the key, so with one a script ends with a read (EXISTS),
which begins it anew; nobody else pays for it.

What is sent with ``WAIT`` writes something even when it is a retry that changes nothing: since
Redis 7.2 a connection that has written nothing waits for nothing.
"""

# Redis forgets a session this long after its end; then a late commit meets "absent".
_CLEAN = """
local function clean(key, ends, now)
  local left = ends - now
  if left < 0 then left = 0 end
  -- Slack in proportion: most touches need no second write to move the expiry.
  if redis.call('PTTL', key) < left + 30000 then
    redis.call('PEXPIRE', key, math.floor(left + 60000 + left / 2))
  end
end
"""

_PUT = """
local function put(key, fields)
  -- unpack() has a limit; a session may have thousands of keys
  for at = 1, #fields, 2000 do
    redis.call('HSET', key, unpack(fields, at, math.min(at + 1999, #fields)))
  end
end
"""

ENDED, ABSENT, TAKEN, LOST, UNREADABLE = 1, 2, 3, 4, 5
REFUSED, ADMITTED, ASKED = 0, 1, 2

# ARGV: what each commit says (`_SAID` in `samesession.stores.redis_fields`), and as that announces:
#       of a record to be made its origin and absolute deadline, of removed keys the mark for an
#       emptied record and its ms; then field, value, …, removed fields …
# Returns times and commits in one string, or a table that begins with one of the numbers above.
COMMIT = (
    _CLEAN
    + _PUT
    + """
local key, at = KEYS[1], 2
local token, now, floor, idle, wanted, tag, makes, keep_empty, near, sets, removes =
  struct.unpack('>c8I8I8I8I8c2BBBI4I4', ARGV[1])
local origin, lasts, emptied, mark_ms
if makes == 1 then origin, lasts, at = ARGV[at], tonumber(ARGV[at + 1]), at + 2 end
if removes > 0 then emptied, mark_ms, at = ARGV[at], ARGV[at + 1], at + 2 end
local first_remove = at + 2 * sets
local function and_sets(fields)
  for i = at, first_remove - 1 do fields[#fields + 1] = ARGV[i] end
  return fields
end

local have = redis.call('HMGET', key, 'e', 'c', 't')
local mark, commits, times = have[1], have[2], have[3]
if mark then return {1, mark} end

if not commits then
  if redis.call('EXISTS', key) == 1 then return {3} end
  if makes == 0 then return {2} end
  commits, times = struct.pack('>I4', floor + 1) .. token, struct.pack('>I8I8I8', now, idle, lasts)
  put(key, and_sets({'m', origin, 'c', commits, 't', times}))
  clean(key, math.min(idle, lasts), now)
  if near == 1 then redis.call('EXISTS', key) end
  return times .. commits
end

if #commits == 0 or #commits % 12 ~= 0 or not times or #times ~= 24 then return {5} end
for i = 1, #commits, 12 do
  if string.sub(commits, i + 4, i + 11) == token then return times .. commits end
end
if makes == 1 then return {3} end
local seen, until_, absolute = struct.unpack('>I8I8I8', times)
local ends = math.min(until_, absolute)
if ends <= now then return {1, '', ends} end

if wanted > 0 then
  local covered = true
  for i = #commits - 11, 1, -12 do
    local number = struct.unpack('>I4', commits, i)
    if number <= wanted then
      covered = number == wanted and string.sub(commits, i + 4, i + 5) == tag
      break
    end
  end
  local newest = struct.unpack('>I4', commits, #commits - 11)
  if newest < wanted or not covered then return {4, commits} end
end

local touched = idle > until_
local changed = sets > 0 or removes > 0
if not (touched or changed) then return times .. commits end
local fields = {}
if changed then
  if removes > 0 then
    for i = first_remove, #ARGV, 2000 do
      redis.call('HDEL', key, unpack(ARGV, i, math.min(i + 1999, #ARGV)))
    end
    if sets == 0 and redis.call('HLEN', key) == 3 and keep_empty == 0
       and string.sub(redis.call('HGET', key, 'm'), 1, 1) == 'a' then
      redis.call('DEL', key)
      redis.call('HSET', key, 'e', emptied)
      redis.call('PEXPIRE', key, mark_ms)
      return {1, emptied}
    end
  end
  local number = math.max(struct.unpack('>I4', commits, #commits - 11), floor) + 1
  commits = string.sub(commits .. struct.pack('>I4', number) .. token, -48)
  fields = and_sets({'c', commits})
end
if touched then
  times = struct.pack('>I8I8I8', math.max(seen, now), idle, absolute)
  fields[#fields + 1] = 't'
  fields[#fields + 1] = times
end
put(key, fields)
if touched then clean(key, math.min(idle, absolute), now) end
if near == 1 then redis.call('EXISTS', key) end
return times .. commits
"""
)

# ARGV: mark, now, whether the session goes on elsewhere (then its contents are kept), mark ms
END = """
local key = KEYS[1]
local have = redis.pcall('HMGET', key, 'e', 't')
if have['err'] then have = {false, false} end -- no hash: whatever it is, it is ended
if have[1] then
  redis.call('PEXPIRE', key, ARGV[4])
  return redis.call('HGETALL', key)
end
local alive = '0'
if have[2] and #have[2] == 24 then
  local seen, until_, absolute = struct.unpack('>I8I8I8', have[2])
  if math.min(until_, absolute) > tonumber(ARGV[2]) then alive = '1' end
end
if alive == '0' or ARGV[3] == '0' then redis.call('DEL', key) end
redis.call('HSET', key, 'e', ARGV[1])
redis.call('PEXPIRE', key, ARGV[4])
if alive == '1' and ARGV[3] == '1' then return redis.call('HGETALL', key) end
return {'e', ARGV[1], 'alive', alive}
"""

# The same for many sessions of one slot, of which none goes on elsewhere.
# Returns how many were alive, and the marks of those that had ended before.
# ARGV: mark, now, mark ms
END_MANY = """
local call, pcall = redis.call, redis.pcall
local now, alive, found, marked = tonumber(ARGV[2]), 0, {0}, nil
for _, key in ipairs(KEYS) do
  local have = pcall('HMGET', key, 'e', 't')
  if have['err'] then have = {false, false} end
  if have[1] then
    if have[1] ~= ARGV[1] then found[#found + 1] = have[1] end
    call('PEXPIRE', key, ARGV[3])
  else
    if have[2] and #have[2] == 24 then
      local seen, until_, absolute = struct.unpack('>I8I8I8', have[2])
      if math.min(until_, absolute) > now then alive = alive + 1 end
    end
    if marked then
      call('COPY', marked, key, 'REPLACE') -- its expiry, too
    else
      call('DEL', key)
      call('HSET', key, 'e', ARGV[1])
      call('PEXPIRE', key, ARGV[3])
      marked = key
    end
  end
end
found[1] = alive
return found
"""

# ARGV: member, its absolute deadline, now
ADMIT = """
local pruned = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
if type(pruned) == 'table' and pruned['err'] then redis.call('DEL', KEYS[1]) end -- no index
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
local left = tonumber(ARGV[2]) - tonumber(ARGV[3]) + 60000
redis.call('PEXPIRE', KEYS[1], math.floor(math.max(left, redis.call('PTTL', KEYS[1]))))
return 1
"""

# The same within a quota, as `samesession.quota.displaced` decides it. Beside the records' names
# the index then holds, for a minute, "+name" of one that is being made and "old>new" of one that is
# being moved, and "!name" of one that was displaced until it is ended.
# ARGV: member, its absolute deadline, now, most, evicts, whose place it takes or "", when it counts
#       no longer if it is not made, whether the members have been looked at, those over …
ADMIT_WITHIN = """
local index, me, absolute, now = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local pruned = redis.pcall('ZREMRANGEBYSCORE', index, '-inf', ARGV[3])
if type(pruned) == 'table' and pruned['err'] then redis.call('DEL', index) end -- no index
for at = 9, #ARGV do redis.call('ZREM', index, ARGV[at], '+' .. ARGV[at], '!' .. ARGV[at]) end
local all = redis.call('ZRANGE', index, 0, -1) -- by absolute deadline: oldest first
local there, making, displaced, into, out_of = {}, {}, {}, {}, {}
for _, member in ipairs(all) do
  local sign, name = string.sub(member, 1, 1), string.sub(member, 2)
  local parted = string.find(member, '>', 1, true)
  if sign == '+' then making[name] = true
  elseif sign == '!' then displaced[name] = true
  elseif parted then
    into[string.sub(member, 1, parted - 1)] = string.sub(member, parted + 1)
    out_of[string.sub(member, parted + 1)] = string.sub(member, 1, parted - 1)
  else there[member] = true end
end
local function held(name) return name and there[name] and not displaced[name] end
local counted = {}
for _, member in ipairs(all) do
  if held(member) and not held(into[member]) then counted[#counted + 1] = member end
end
local over = #counted + 1 - tonumber(ARGV[4])
if there[me] or held(ARGV[6]) then over = 0 end
if over > 0 and ARGV[8] == '0' then
  local asked = {2}
  for _, member in ipairs(counted) do
    asked[#asked + 1] = member
    asked[#asked + 1] = making[member] and '1' or '0'
  end
  return asked
end
if over > 0 and ARGV[5] == '0' then return {0} end
for at = 1, over do
  local going = counted[at]
  while held(going) do
    displaced[going] = true
    redis.call('ZADD', index, redis.call('ZSCORE', index, going), '!' .. going)
    going = out_of[going]
  end
end
redis.call('ZADD', index, absolute, me)
redis.call('ZADD', index, ARGV[7], '+' .. me)
if ARGV[6] ~= '' then redis.call('ZADD', index, ARGV[7], ARGV[6] .. '>' .. me) end
local left = tonumber(absolute) - now + 60000
redis.call('PEXPIRE', index, math.floor(math.max(left, redis.call('PTTL', index))))
local gone = {1}
for name in pairs(displaced) do gone[#gone + 1] = name end
return gone
"""

# ARGV: the newest commit that must be there, all that are put back, idle until, now, field, value …
REPAIR = (
    _CLEAN
    + _PUT
    + """
local key = KEYS[1]
local have = redis.call('HMGET', key, 'e', 'c', 't', 'm')
local mark, commits, times, fixed = have[1], have[2], have[3], have[4]
if mark or not commits or not times or #times ~= 24 or not fixed then return 0 end
if commits == ARGV[2] then return 1 end -- this has been here before
if string.sub(commits, -12) ~= ARGV[1] then return 0 end
local seen, until_, absolute = struct.unpack('>I8I8I8', times)
local idle = math.max(until_, tonumber(ARGV[3]))
local fields = {'m', fixed, 'c', ARGV[2], 't', struct.pack('>I8I8I8', seen, idle, absolute)}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('DEL', key)
put(key, fields)
clean(key, math.min(idle, absolute), tonumber(ARGV[4]))
redis.call('EXISTS', key)
return 1
"""
)

ALL = (COMMIT, END, END_MANY, ADMIT, ADMIT_WITHIN, REPAIR)
