"""Which keys in a Redis break the rule: every key expires, is trimmed, or is listed as permanent.

Not a test: fixtures call `key_leaks(redis)` when a test is over and fail when
it returns something. A key is known by a pattern of `trajectories.keys.KEYS`.
"""

import re
from typing import Any

from trajectories.keys import KEYS, Key


def key_leaks(redis: Any) -> list[str]:
    """One line for each key that is not listed, is of another type, or lacks its TTL."""
    faults = []
    for name in sorted(redis.scan_iter(count=1000)):
        text = name.decode()
        kind = redis.type(name).decode()
        if kind == "none":
            continue  # expired in between
        key = _listed(text, kind)
        if key is None:
            faults.append(f"{text} ({kind}) is not in trajectories.keys.KEYS")
        elif key.bound in ("ttl", "lease") and redis.ttl(name) < 0:
            faults.append(f"{text} ({kind}) has no TTL")
    return faults


def _listed(name: str, kind: str) -> Key | None:
    for key in KEYS:
        pattern = re.escape(key.pattern).replace(r"\*", ".*")
        pattern = re.sub(r"\\\{\w+\\\}", "[^:]+", pattern)
        if re.fullmatch(pattern, name) and key.type in (kind, "various"):
            return key
    return None
