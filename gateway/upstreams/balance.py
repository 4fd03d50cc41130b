"""Which replica of an upstream answers: its trajectory's own, unless that one is far busier.

Turns of one trajectory share a prefix, and the replica that answered the last
turn has it in its cache. So a trajectory has a preferred replica (its id's
checksum), which is left only when it is down or has `SLACK` more calls in flight
than the least busy one. Pure: counters in, a choice out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from gateway.upstreams.breaker import Breaker

SLACK = 4  # calls; a prefix found in the cache is worth waiting behind a few others


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """What one replica serves, from one change to the next: another object, other weights."""

    version: int | None  # None: nobody can say


@dataclass(slots=True, eq=False)
class Replica:
    """One address of an upstream."""

    url: str
    breaker: Breaker
    in_flight: int = 0
    is_healthy: bool = True
    stamp: Stamp | None = None  # where all weights change; None: the model's name says it
    is_changing: bool = False  # it is left alone while its weights are exchanged


def affinity(trajectory_id: str) -> int:
    """The key that a trajectory's calls are balanced by."""
    return crc32(trajectory_id.encode())


def choose(
    replicas: Sequence[Replica], key: int, now: float, *, avoid: Replica | None = None
) -> Replica | None:
    """The replica for a call, or None while every breaker is open.

    `avoid` is the one that has just failed this call. It, those that the health
    checks found down, and one whose weights change, are taken only where there is no other.
    """
    preferred = replicas[key % len(replicas)]
    if len(replicas) == 1:
        return preferred if preferred.breaker.allows(now) else None
    least: Replica | None = None
    for replica in replicas:
        if (
            replica.is_healthy
            and not replica.is_changing
            and replica is not avoid
            and (least is None or replica.in_flight < least.in_flight)
            and replica.breaker.allows(now)
        ):
            least = replica
    if least is None:
        allowed = [replica for replica in replicas if replica.breaker.allows(now)]
        # The checks may be wrong about all of them: asking is the way to find out.
        return min(allowed, key=lambda one: (one is avoid, one.in_flight), default=None)
    if (
        preferred.in_flight <= least.in_flight + SLACK
        and preferred.is_healthy
        and not preferred.is_changing
        and preferred is not avoid
        and preferred.breaker.allows(now)
    ):
        return preferred
    return least
