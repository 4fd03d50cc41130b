"""Tombstones: what was erased, so that a late or repeated record does not bring it back.

Kept are digests and a time. A record that began before that time is dropped
where it would be stored; what a client says anew under the same name is not.
"""

import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.model import Feedback, Retraction, Trajectory, Transition
from trajectories.names import names_of_vote, plain_name
from trajectories.privacy.users import users_of

Recorded = Transition | Feedback | Retraction


class Tombstones:
    """Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def bury(self, tenant: str, names: Iterable[str], at: float) -> None:
        """Nothing of these names that began before `at` (unix seconds) is taken any more."""
        members = {_digest(tenant, name): at for name in names}
        if not members:
            return
        pipe = self._redis.pipeline(transaction=True)
        pipe.zadd(keys.FORGOTTEN, members, gt=True)
        pipe.zremrangebyscore(keys.FORGOTTEN, "-inf", time.time() - keys.FORGOTTEN_TTL_SECONDS)
        pipe.execute()

    def buried(self, records: Sequence[Recorded]) -> list[bool]:
        """Which of these must not be stored; cheap where nothing was erased lately."""
        if not records or not self._redis.exists(keys.FORGOTTEN):
            return [False] * len(records)
        names = [list(names_of(record)) for record in records]
        digests = [
            _digest(record.tenant, name)
            for record, own in zip(records, names, strict=True)
            for name in own
        ]
        found = dict(zip(digests, self._redis.zmscore(keys.FORGOTTEN, digests), strict=True))
        return [
            any(_is_before(when(record), found[_digest(record.tenant, name)]) for name in own)
            or self._is_kin(record, found)
            for record, own in zip(records, names, strict=True)
        ]

    @staticmethod
    def _is_kin(record: Recorded, found: dict[bytes, float | None]) -> bool:
        """Whether it is a sibling of what was erased: whoever asked for it may not have heard."""
        of = record.rollout if isinstance(record, Transition) else None
        return of is not None and found.get(_digest(record.tenant, of)) is not None

    def is_buried(self, trajectory: Trajectory) -> bool:
        """Whether what was read of a trajectory was erased since."""
        (at,) = self.buried_at([(trajectory.tenant, trajectory.id)])
        return _is_before(trajectory.started_at, at)

    def buried_at(self, names: Sequence[tuple[str, str]]) -> list[float | None]:
        """When each of these was erased, as tenant and name; None: it was not."""
        if not names:
            return []
        found: list[float | None] = self._redis.zmscore(
            keys.FORGOTTEN, [_digest(tenant, name) for tenant, name in names]
        )
        return found


def names_of(record: Recorded) -> Iterable[str]:
    """Whatever a record may have been erased under."""
    if isinstance(record, Transition):
        yield from (record.id, record.trajectory_id)
        if record.rollout is not None:
            yield record.rollout
        yield from (user_name(user) for user in users_of(record.request))
    elif isinstance(record, Retraction):
        yield record.feedback_id
    else:
        yield record.id
        targets = (record.trajectory_id, record.within, record.response_id, record.transition_id)
        yield from (target for target in targets if target)
        if record.named is not None:
            yield from (plain_name(kind, value) for kind, value in names_of_vote(record))


def user_name(user: str) -> str:
    """What a user is buried under: no id of ours looks like it."""
    return f"user {user}"


def when(record: Recorded) -> float:
    """When a call began or a vote came, in unix seconds."""
    return record.started_at if isinstance(record, Transition) else record.received_at


def _is_before(at: float, buried_at: float | None) -> bool:
    return buried_at is not None and at <= buried_at


def _digest(tenant: str, name: str) -> bytes:
    text = f"{tenant} {name}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=12).digest()
