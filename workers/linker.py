"""Stores transitions; one whose session nobody named goes where its content says.

The Redis side of `linking`. What an answer can be recognised by is written in
the transaction that stores it, so the two are never apart. The link of a
record is decided once: whoever stores it first. A record that is processed
before the answer it goes on with stays a trajectory of its own.
"""

from collections.abc import Sequence
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.attempts import Attempt, superseded
from trajectories.model import Transition
from trajectories.store import Linkage, Store
from workers.linking import Found, Probe, call_digest, decide, marks_of, probes_of


class Linker:
    """Adds transitions to the store. Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, redis: Redis, store: Store) -> None:
        self._redis: Any = redis
        self._store = store

    def add(self, transition: Transition) -> bool:
        """Store a transition under the trajectory it belongs to; False when it was there."""
        call = call_digest(transition)
        linked = self._linked(transition, call) if transition.session_source == "new" else None
        kept = linked or transition
        marks = [(mark.digest, mark.member) for mark in marks_of(kept)]
        return self._store.add_transition(kept, Linkage(transition.trajectory_id, marks, call))

    def _linked(self, transition: Transition, call: str) -> Transition | None:
        """The transition in the trajectory it goes on with, if there is one."""
        probes = probes_of(transition)
        found, attempts = self._look_up(transition.tenant, probes, call)
        link = decide(transition, probes, found)
        if link is not None:
            update = {"trajectory_id": link.trajectory, "session_source": link.source}
            return transition.model_copy(update=update)
        tried = _tried_in(transition, attempts)
        return transition.model_copy(update={"trajectory_id": tried}) if tried else None

    def _look_up(
        self, tenant: str, probes: Sequence[Probe], call: str
    ) -> tuple[Found, list[Attempt]]:
        """All that is noted under the probes, and the attempts at this call: one round trip."""
        digests = list(dict.fromkeys(probe.digest for probe in probes))
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrange(keys.attempts(tenant, call), 0, -1, withscores=True)
        for digest in digests:
            pipe.zrange(keys.link(tenant, digest), 0, -1, withscores=True)
        attempts, *noted = pipe.execute()
        found = {
            digest: [(member.decode(), seen_at) for member, seen_at in members]
            for digest, members in zip(digests, noted, strict=True)
        }
        return found, [Attempt.parse(member, started_at) for member, started_at in attempts]


def _tried_in(transition: Transition, attempts: Sequence[Attempt]) -> str | None:
    """The trajectory of the attempt that this one replaced, or that replaced this one."""
    this = Attempt.of(transition)
    others = [entry for entry in attempts if entry.transition != transition.id]
    for earlier, retry in superseded([*others, this]):
        if retry is this:
            return earlier.trajectory
        if earlier is this:
            return retry.trajectory
    return None
