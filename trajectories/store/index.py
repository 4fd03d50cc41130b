"""The index: from what a record can be known by to the record, within a tenant and a time.

Ids of responses, of tool calls, digests of texts: each is noted under a short
digest, with a member (words such as `traj_... tr_...`) and a time. A key for
each would cost 200 bytes and more, most of it Redis' own; so entries share
small hashes, which Redis keeps as one block of memory. Time is cut into
slices as long as an entry lives: entries go into the slice of now and are
looked for in that one and the one before, and a slice expires as a whole.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any

from trajectories import keys
from trajectories.store.packing import pack, unpack
from trajectories.store.refs import TrajectoryRef
from trajectories.store.room import Room
from trajectories.store.script import Script

DIGEST_BYTES = 10  # two choose the bucket, eight are the field: no two alike in 10^9
MOST_MEMBERS = 64  # under one digest; the first noted gives way
_LOOKED_AT = 8  # of them, whether a member is noted already
_TIME_BYTES = 7  # microseconds
_MICROSECONDS = 1e6


class Life(Enum):
    """How long an entry is found at least, in seconds; the letter names its slices."""

    HOUR = ("h", keys.ATTEMPTS_TTL_SECONDS)
    DAY = ("d", keys.DAY)
    WEEK = ("w", keys.TRAJECTORY_TTL_SECONDS)

    def __init__(self, letter: str, seconds: int) -> None:
        self.letter = letter
        self.seconds = seconds


LIVES: Mapping[str, Life] = {
    "link": Life.DAY,  # marks of an answer (workers/linking.py)
    "attempt": Life.HOUR,  # attempts at one call
    "response": Life.WEEK,  # response id -> `trajectory transition`
    "transition": Life.WEEK,  # transition id -> `trajectory`
    "alias": Life.WEEK,  # another id of a trajectory -> `trajectory`
    "request": Life.DAY,  # the x-request-id we returned -> `trajectory transition`
    "tool_call": Life.DAY,  # a tool call's id -> `trajectory transition`
    "trace_span": Life.DAY,  # the span that a call was made in -> `trajectory transition`
    "text": Life.DAY,  # an answer's normalised text -> `trajectory transition`
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to note: under `name`, that `member` (words) was seen at `at` (unix seconds)."""

    kind: str  # a key of `LIVES`
    name: str
    member: str
    at: float


@dataclass(frozen=True, slots=True)
class Noted:
    """A member found under a name, and when it was seen (unix seconds)."""

    member: str
    at: float


# An entry's value is its time and its member. The entries under one digest have places, the last
# byte of their fields: the first few are looked at, so that what is noted again is known. What
# everybody answers has more, and costs no more: those go round the places by a counter of their
# digest's, the next one of all that were noted. An erased entry keeps its place, without a member.
# There are fewer buckets for what lives an hour.
NOTE = (
    f"local PLACES, LOOKED_AT = {MOST_MEMBERS}, {_LOOKED_AT}\n"
    + """
local function when(value)
  local total = 0
  for n = 1, 7 do total = total * 256 + string.byte(value, n) end
  return total
end
local function bucket(prefix, digest)
  local high, low = string.byte(digest, 1, 2)
  local buckets = string.find(prefix, '^index:[^:]*:h') and 256 or 4096
  return prefix .. string.format('%x', (high * 256 + low) % buckets)
end
local function look_up(prefix, digest)
  return redis.call('HGET', bucket(prefix, digest), string.sub(digest, 3) .. '\\0')
end
local function read(key, field, first, last)
  local names = {}
  for place = first, last do names[#names + 1] = field .. string.char(place) end
  return redis.call('HMGET', key, unpack(names))
end
local function place_of(key, field, value)
  local at, member = when(value), string.sub(value, 8)
  local first = 0
  for _, last in ipairs({0, LOOKED_AT - 1}) do
    for n, had in ipairs(read(key, field, first, last)) do
      local place = first + n - 1
      if not had then return place, place end
      if string.sub(had, 8) == member then return place, when(had) < at and place end
    end
    first = last + 1
  end
  local noted = LOOKED_AT + redis.call('HINCRBY', key, field .. '\\255', 1) - 1
  return math.min(noted, PLACES), noted % PLACES
end
local function note(prefix, seconds, digest, value)
  local key, field = bucket(prefix, digest), string.sub(digest, 3)
  local others, place = place_of(key, field, value)
  if place then
    redis.call('HSET', key, field .. string.char(place), value)
    redis.call('EXPIRE', key, seconds)
  end
  return others
end
"""
)

_NOTE_ALL = f"""{NOTE}
for n = 1, #ARGV, 4 do note(ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3]) end
"""

# ARGV: prefixes of the two slices, then all digests as one string. Replies with pairs of a
# digest's number and a value.
_FIND = Script(
    NOTE
    + """
local found = {}
local function find(key, field, number)
  local first = 0
  for _, last in ipairs({0, LOOKED_AT - 1, PLACES - 1}) do
    for _, value in ipairs(read(key, field, first, last)) do
      if not value then return end
      if #value > 7 then
        found[#found + 1] = number
        found[#found + 1] = value
      end
    end
    first = last + 1
  end
end
local digests = ARGV[3]
for number = 0, #digests / 10 - 1 do
  local digest = string.sub(digests, number * 10 + 1, number * 10 + 10)
  for slice = 1, 2 do find(bucket(ARGV[slice], digest), string.sub(digest, 3), number) end
end
return found
"""
)

_ERASE = """
local all = redis.call('HGETALL', KEYS[1])
local erased = 0
for n = 1, #all, 2 do
  for _, trajectory in ipairs(ARGV) do
    if string.find(all[n + 1], trajectory, 8, true) then
      redis.call('HSET', KEYS[1], all[n], string.rep('\\0', 7))
      erased = erased + 1
      break
    end
  end
end
return erased
"""


class Index(Room):
    """Notes entries and finds them again."""

    def note(self, pipe: Any, tenant: str, entries: Iterable[Entry]) -> None:
        """Note entries within the caller's pipeline; noting one again raises its time at most."""
        arguments = [part for entry in entries for part in noting(tenant, entry)]
        if arguments:
            self._redis.register_script(_NOTE_ALL)(args=arguments, client=pipe)

    def find(self, tenant: str, kind: str, names: Sequence[str]) -> dict[str, list[Noted]]:
        """What is noted under each of `names` (those with something only), oldest first."""
        return self.find_all([(tenant, kind, names)])[0]

    def find_all(
        self, asked: Sequence[tuple[str, str, Sequence[str]]]
    ) -> list[dict[str, list[Noted]]]:
        """The same for several of (tenant, kind, names), in one round trip."""
        all_names = [list(dict.fromkeys(names)) for _, _, names in asked]
        calls = [
            [*slices(tenant, LIVES[kind]), b"".join(digest_of(kind, name) for name in names)]
            for (tenant, kind, _), names in zip(asked, all_names, strict=True)
        ]
        replies = _FIND.run_all(self._redis, calls)
        return [_found(*pair) for pair in zip(all_names, replies, strict=True)]

    def erase_entries(self, tenant: str, refs: Iterable[TrajectoryRef]) -> int:
        """Forget every entry that names one of these trajectories; returns how many."""
        packed = [pack(ref.id) for ref in refs if ref.tenant == tenant]
        if not packed:
            return 0
        erase = self._redis.register_script(_ERASE)
        names = self._redis.scan_iter(match=f"index:{_literal(tenant)}:*", count=1000)
        return sum(int(erase(keys=[name], args=packed)) for name in names)


def noting(tenant: str, entry: Entry) -> tuple[str, int, bytes, bytes]:
    """The arguments of `note` for an entry: slice, life, digest, value."""
    life = LIVES[entry.kind]
    at = max(0, int(entry.at * _MICROSECONDS)).to_bytes(_TIME_BYTES, "big")
    return (
        slices(tenant, life)[0],
        2 * life.seconds,
        digest_of(entry.kind, entry.name),
        at + pack(entry.member),
    )


def digest_of(kind: str, name: str) -> bytes:
    """What an entry is noted under."""
    return blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=10).digest()


def slices(tenant: str, life: Life) -> tuple[str, str]:
    """Prefixes of the buckets that are written now, and of those before them."""
    number = int(time.time() / life.seconds)
    begin = f"index:{tenant}:{life.letter}"
    return f"{begin}{number}:", f"{begin}{number - 1}:"


def _found(names: Sequence[str], reply: Sequence[Any]) -> dict[str, list[Noted]]:
    """The reply of the look-up as entries by name, each member once with its latest time."""
    latest: dict[str, dict[str, float]] = {}
    for number, value in zip(reply[::2], reply[1::2], strict=True):
        members = latest.setdefault(names[int(number)], {})
        member = unpack(value[_TIME_BYTES:])
        at = int.from_bytes(value[:_TIME_BYTES], "big") / _MICROSECONDS
        members[member] = max(at, members.get(member, 0.0))
    return {
        name: sorted((Noted(member, at) for member, at in members.items()), key=lambda n: n.at)
        for name, members in latest.items()
    }


def read_member(value: bytes) -> list[str]:
    """The words of an entry's member; none when it was erased."""
    words = unpack(value[_TIME_BYTES:])
    return words.split(" ") if words else []


def _literal(text: str) -> str:
    """`text` within a pattern of SCAN."""
    return "".join(f"\\{letter}" if letter in r"*?[]\^" else letter for letter in text)
