"""How ids are made: random ones that sort by time, and derived ones that repeat.

A derived id is a keyed-by-kind hash of what it stands for, so that the same
session, feedback or reward has the same id whoever computes it, and however
often. That is what makes every later stage idempotent.
"""

import hashlib
import os
import re
import time

# What a client may call a session, task or agent and have it kept as it is.
ID_PATTERN = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
# What a trajectory's id may be when it comes from outside; `re` and pydantic both take it.
TRAJECTORY_PATTERN = r"^[A-Za-z0-9_.~-]{1,128}$"


_RANDOM_BYTES = 8
_drawn: list[str] = []  # asking the kernel once for many costs a fifth
_moment = (0, "")  # the last millisecond an id was made in, and how it is written


def new_id(prefix: str) -> str:
    """A fresh id such as `tr_019a2f...`; ids made later sort later (to the millisecond)."""
    global _moment
    milliseconds = time.time_ns() // 1_000_000
    known, written = _moment
    if milliseconds != known:
        written = f"{milliseconds:012x}"
        _moment = (milliseconds, written)
    try:
        random = _drawn.pop()
    except IndexError:
        drawn = os.urandom(256 * _RANDOM_BYTES).hex()
        _drawn.extend(drawn[n : n + 16] for n in range(0, len(drawn), 16))
        random = _drawn.pop()
    return f"{prefix}_{written}{random}"


# A forked process must not draw what its parent draws.
os.register_at_fork(after_in_child=_drawn.clear)


def derived_id(prefix: str, *parts: str) -> str:
    """The id of the thing that `parts` identify; equal parts give an equal id."""
    digest = hashlib.blake2b(digest_size=14)
    for part in (prefix, *parts):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return f"{prefix}_{digest.hexdigest()}"


def trajectory_id(tenant: str, *, session: str | None, task: str | None) -> str:
    """The trajectory of a session, else of a task, else a new one."""
    if session is not None:
        return derived_id("traj", tenant, "session", session)
    if task is not None:
        return derived_id("traj", tenant, "task", task)
    return new_id("traj")
