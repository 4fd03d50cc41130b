"""How long a trajectory and its contents live, as Lua that other scripts go on with.

A trajectory lives for a week from its last change on, less an hour at most. Its
life and that of the contents it refers to (`contents`), a day longer, only ever
grow together, when it grows by more than an hour: so a change costs the same
however long the trajectory is, and nothing that is referred to expires before
what refers to it.
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
    local from = (string.byte(value, 2) or 0) + 3
    local low, high = string.byte(value, from, from + 1)
    local count = (low or 0) + 256 * (high or 0)
    count = math.min(count, math.floor((#value - from - 1) / 12))  -- of a broken value
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
  local grows = left < LIFE - 3600
  for _, part in ipairs(PARTS) do
    if grows then
      redis.call('EXPIRE', trajectory .. part, LIFE)
    elseif redis.call('TTL', trajectory .. part) == -1 then
      redis.call('EXPIRE', trajectory .. part, left)
    end
  end
  if grows and left >= 0 then  -- else it was made just now, with its contents
    each_digest(trajectory .. ':transitions', function(digest)
      redis.call('EXPIRE', messages .. named(digest), OF_CONTENTS)
    end)
  end
end
"""
)

# ARGV: trajectory, prefix of messages
KEEP = f"{DEFINE} keep(ARGV[1], ARGV[2])"
