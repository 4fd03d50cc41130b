"""Votes: feedback, joined to what it is about or waiting for it.

What was said of a trajectory and what was recorded of it may arrive in any
order; feedback whose target is not known yet waits under the target's name.
"""

import time
from collections.abc import Iterable

from redis import WatchError

from trajectories import keys
from trajectories.model import Feedback
from trajectories.store.reading import Reading
from trajectories.store.refs import TrajectoryRef


class Votes(Reading):
    """Stores votes and finds their targets."""

    def add_feedback(self, feedback: Feedback) -> TrajectoryRef | None:
        """Store a vote and join it; None when its target is not known yet.

        An older vote never replaces a newer one of the same identity, so the
        order of arrival does not matter.
        """
        ref = self.resolve(feedback)
        item_key = keys.feedback(feedback.tenant, feedback.id)
        if self._redis.set(item_key, feedback.to_json(), ex=keys.FEEDBACK_TTL_SECONDS, nx=True):
            self._redis.hincrby(keys.COUNTS, "feedback", 1)
        if ref is not None:
            self._attach(ref, feedback)
            return ref
        pending_key = keys.pending_of(feedback.tenant, feedback.target)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(pending_key, feedback.id, feedback.to_json())
        pipe.expire(pending_key, keys.PENDING_TTL_SECONDS)
        pipe.zadd(
            keys.PENDING,
            {f"{feedback.tenant}/{feedback.target}": time.time() + keys.PENDING_TTL_SECONDS},
        )
        pipe.execute()
        ref = self.resolve(feedback)  # its target may have arrived in between
        if ref is not None:
            self._attach(ref, feedback)
            self._forget_pending(feedback.tenant, feedback.target, [feedback.id])
        return ref

    def resolve(self, feedback: Feedback) -> TrajectoryRef | None:
        """The trajectory a vote is about, if it was recorded."""
        if feedback.response_id is not None:
            found = self._redis.get(keys.response(feedback.tenant, feedback.response_id))
            return TrajectoryRef(feedback.tenant, found.split()[0].decode()) if found else None
        return self.locate(TrajectoryRef(feedback.tenant, feedback.target))

    def feedback(self, tenant: str, feedback_id: str) -> Feedback | None:
        """One feedback item as it was posted."""
        raw = self._redis.get(keys.feedback(tenant, feedback_id))
        return Feedback.from_json(raw) if raw else None

    def count_pending(self) -> int:
        """How many targets feedback is waiting for."""
        return int(self._redis.zcard(keys.PENDING))

    def expire_pending(self, now: float) -> int:
        """Forget targets that never came; returns how many."""
        return int(self._redis.zremrangebyscore(keys.PENDING, "-inf", now))

    def _attach(self, ref: TrajectoryRef, feedback: Feedback) -> None:
        votes_key = keys.feedback_of(ref.tenant, ref.id)
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(votes_key)
                    if not pipe.hexists(trajectory_key, "started_at"):
                        return  # it expired just now
                    before = pipe.hget(votes_key, feedback.identity)
                    if before is not None:
                        older = Feedback.from_json(before)
                        if (older.received_at, older.id) >= (feedback.received_at, feedback.id):
                            return
                    pipe.multi()
                    pipe.hset(votes_key, feedback.identity, feedback.to_json())
                    pipe.hincrby(trajectory_key, "revision", 1)
                    if feedback.is_final:
                        pipe.hset(trajectory_key, "closed", 1)
                        pipe.zrem(keys.OPEN, str(ref))
                    pipe.zadd(keys.SCORING, {str(ref): time.time()}, nx=True)
                    self._expire(pipe, ref)
                    pipe.execute()
                    return
                except WatchError:
                    continue

    def _join_pending(self, ref: TrajectoryRef, targets: Iterable[str]) -> None:
        """Attach the votes that came before what they are about."""
        for target in targets:
            waiting = self._redis.hgetall(keys.pending_of(ref.tenant, target))
            for raw in waiting.values():
                self._attach(ref, Feedback.from_json(raw))
            if waiting:
                self._forget_pending(ref.tenant, target, waiting)

    def _forget_pending(
        self, tenant: str, target: str, feedback_ids: Iterable[str | bytes]
    ) -> None:
        """Take out just what was attached: more may have come in the meantime."""
        pending_key = keys.pending_of(tenant, target)
        self._redis.hdel(pending_key, *feedback_ids)
        if not self._redis.exists(pending_key):
            self._redis.zrem(keys.PENDING, f"{tenant}/{target}")
