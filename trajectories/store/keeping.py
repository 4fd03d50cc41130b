"""How long a trajectory and its contents live, as Lua that other scripts go on with.

A trajectory lives for a week from its last change on. The contents it refers to
(`contents`) live a day longer, and are only looked after when its life grows by
more than an hour: so a change costs the same however long the trajectory is,
and nothing that is referred to expires before what refers to it.
"""

from trajectories import keys

# How a content's key is called after its digest: base64, fit for URLs.
NAMES = """
local LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
local function letter(n) return string.sub(LETTERS, n + 1, n + 1) end
local function named(digest)
  local out = {}
  for n = 1, 12, 3 do
    local a, b, c = string.byte(digest, n, n + 2)
    local all = a * 65536 + b * 256 + c
    out[#out + 1] = letter(math.floor(all / 262144)) .. letter(math.floor(all / 4096) % 64)
    out[#out + 1] = letter(math.floor(all / 64) % 64) .. letter(all % 64)
  end
  return table.concat(out)
end
local function each_digest(transitions, visit)
  for _, value in ipairs(redis.call('HVALS', transitions)) do
    local from = string.byte(value, 2) + 3
    local count = string.byte(value, from) + 256 * string.byte(value, from + 1)
    for n = 0, count - 1 do visit(string.sub(value, from + 2 + 12 * n, from + 13 + 12 * n)) end
  end
end
"""

DEFINE = (
    NAMES
    + f"""
local LIFE, OF_CONTENTS = {keys.TRAJECTORY_TTL_SECONDS}, {keys.MESSAGE_TTL_SECONDS}
local PARTS = {{'', ':transitions', ':superseded', ':feedback', ':rewards'}}
local function keep(trajectory, messages)
  local left = redis.call('TTL', trajectory .. ':transitions')
  for _, part in ipairs(PARTS) do redis.call('EXPIRE', trajectory .. part, LIFE) end
  if left >= 0 and left < LIFE - 3600 then
    each_digest(trajectory .. ':transitions', function(digest)
      redis.call('EXPIRE', messages .. named(digest), OF_CONTENTS)
    end)
  end
end
"""
)

# ARGV: trajectory, prefix of messages
KEEP = f"{DEFINE} keep(ARGV[1], ARGV[2])"
