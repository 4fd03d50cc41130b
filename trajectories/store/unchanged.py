"""Writes that hold only while a trajectory is still what was read of it: many in one round trip.

What WATCH would do takes three round trips for each trajectory, one after another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajectories import keys
from trajectories.store.keeping import DEFINE
from trajectories.store.refs import TrajectoryRef
from trajectories.store.script import Script

_MOST_PARTS = 1_000  # of one command: Lua's stack holds a few thousand

# ARGV: trajectory, prefix of messages, what was read, then commands, each behind its length.
# The first command has to be one that a full Redis refuses: once a script wrote, it is let finish.
_WRITE = Script(
    DEFINE
    + """
if table.concat(redis.call('HGETALL', ARGV[1]), '\\0') ~= ARGV[3] then return 0 end
local at = 4
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, last))
  at = last + 1
end
keep(ARGV[1], ARGV[2])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Change:
    """What to do, if the trajectory's own fields are still `seen` (in the order of the reply)."""

    ref: TrajectoryRef
    seen: Mapping[bytes, bytes]
    pipe: Any  # a pipeline that is never executed: it only takes the commands down


def write_unchanged(redis: Any, changes: Sequence[Change]) -> list[bool]:
    """Do each change whole or not at all, and keep what it is about alive; which were done."""
    return [bool(reply) for reply in _WRITE.run_all(redis, [_arguments(c) for c in changes])]


def in_pieces(mapping: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """A mapping in parts that are short enough for one command each."""
    pairs = list(mapping.items())
    step = _MOST_PARTS // 2
    return [dict(pairs[at : at + step]) for at in range(0, len(pairs), step)]


def _arguments(change: Change) -> list[Any]:
    tenant, trajectory_id = change.ref.tenant, change.ref.id
    parts: list[Any] = [keys.trajectory(tenant, trajectory_id), keys.messages(tenant)]
    parts.append(b"\0".join(part for pair in change.seen.items() for part in pair))
    for command, _ in change.pipe.command_stack:
        parts += (len(command), *command)
    return parts
