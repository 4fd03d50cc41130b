"""What storing a transition does in Redis, all in one: the script of `intake`.

It trusts nothing that the writer remembers: what the transition leaves out
(its base, its dictionary, contents) has to be there, else nothing is stored and
the writer is told what to send.
"""

from trajectories import keys
from trajectories.store.index import NOTE
from trajectories.store.keeping import DEFINE
from trajectories.store.script import Script

# Replies {1, numbers of the keys that are there, members beside the last that was noted} when it
# stored the transition, {0, noted value} when it was there or was erased, {2} when its base is not
# there, {3} when its dictionary is not, {4, numbers} when contents are not.
_ADD = (
    DEFINE
    + NOTE
    + f"local COUNTS, OPEN, SCORING = '{keys.COUNTS}', '{keys.OPEN}', '{keys.SCORING}'"
    + """
local place = 0
local function next_argument() place = place + 1 return ARGV[place] end
local function next_number() return tonumber(next_argument()) end
local trajectory, messages, ref = next_argument(), next_argument(), next_argument()
local id, value, base = next_argument(), next_argument(), next_argument()
local dictionaries, dictionary = next_argument(), next_argument()
local digest, seconds, member = next_argument(), next_argument(), next_argument()
local slices = {next_argument(), next_argument()}
for n = 1, 2 do
  local had = look_up(slices[n], digest)
  if had then return {0, had} end
end
if base ~= '' and redis.call('HEXISTS', trajectory .. ':transitions', base) == 0 then return {2} end
if dictionary ~= '' and redis.call('HEXISTS', dictionaries, dictionary) == 0 then return {3} end
local missing, bodies = {}, {}
for n = 1, next_number() do
  local name, body = messages .. next_argument(), next_argument()
  if redis.call('EXISTS', name) == 0 then
    bodies[name] = body
    if body == '' then missing[#missing + 1] = n end
  else
    bodies[name] = false
  end
end
if #missing > 0 then return {4, missing} end
for name, body in pairs(bodies) do
  if body then
    redis.call('SET', name, body, 'EX', OF_CONTENTS)
  else
    redis.call('EXPIRE', name, OF_CONTENTS)
  end
end
redis.call('HSET', trajectory .. ':transitions', id, value)
note(slices[1], seconds, digest, member)

local started, finished = next_argument(), next_argument()
local times = redis.call('HMGET', trajectory, 'started_at', 'updated_at')
local is_last = not times[2] or tonumber(finished) >= tonumber(times[2])
if not times[1] or tonumber(started) < tonumber(times[1]) then
  redis.call('HSET', trajectory, 'started_at', started)
end
if is_last then redis.call('HSET', trajectory, 'updated_at', finished) end
for n = 1, next_number() do
  redis.call(is_last and 'HSET' or 'HSETNX', trajectory, next_argument(), next_argument())
end
redis.call('HDEL', trajectory, 'closed')
redis.call('HINCRBY', trajectory, 'revision', 1)
local of_transitions, of_trajectories = next_argument(), next_argument()
if of_transitions ~= '' then redis.call('HINCRBY', COUNTS, of_transitions, 1) end
if not times[1] then redis.call('HINCRBY', COUNTS, of_trajectories, 1) end
redis.call('ZADD', OPEN, 'GT', finished, ref)
redis.call('ZADD', SCORING, 'NX', next_argument(), ref)
local others = 0
for n = 1, next_number() do
  others = note(next_argument(), next_argument(), next_argument(), next_argument())
end
keep(trajectory, messages)
local waiting = {}
for n = 1, next_number() do
  if redis.call('EXISTS', next_argument()) == 1 then waiting[#waiting + 1] = n end
end
return {1, waiting, others}
"""
)

ADD = Script(_ADD)
