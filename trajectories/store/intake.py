"""Intake: transitions into their trajectories, each with one effect however often it comes."""

import time
from typing import Any

from redis import WatchError

from trajectories import keys
from trajectories.attempts import Attempt, superseded
from trajectories.ids import trajectory_id
from trajectories.model import Transition
from trajectories.store.refs import Linkage, TrajectoryRef
from trajectories.store.votes import Votes


class Intake(Votes):
    """Stores transitions, and what they are recognised by."""

    def add_transition(self, transition: Transition, linkage: Linkage | None = None) -> bool:
        """Store a transition under its trajectory; False when it was already there.

        The trajectory it was first stored under stays, whatever a repetition says.
        """
        linkage = linkage or Linkage()
        ref = TrajectoryRef(transition.tenant, transition.trajectory_id)
        key = keys.transition(ref.tenant, transition.id)
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        finished_at = transition.started_at + transition.latency_seconds
        task_id = _task_id(transition)
        others = [name for name in (task_id, linkage.given_id) if name and name != ref.id]
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(key, trajectory_key)
                    stored = pipe.get(key)
                    if stored is not None:
                        ref = TrajectoryRef(ref.tenant, Transition.from_json(stored).trajectory_id)
                        break
                    times = pipe.hmget(trajectory_key, "started_at", "updated_at")
                    is_first = times[0] is None
                    pipe.multi()
                    pipe.set(key, transition.to_json(), ex=keys.TRAJECTORY_TTL_SECONDS)
                    pipe.zadd(
                        keys.transitions_of(ref.tenant, ref.id),
                        {transition.id: transition.started_at},
                    )
                    self._set_fields(pipe, trajectory_key, transition, times)
                    pipe.hdel(trajectory_key, "closed")
                    pipe.hincrby(trajectory_key, "revision", 1)
                    if transition.response_id:
                        pipe.set(
                            keys.response(ref.tenant, transition.response_id),
                            f"{ref.id} {transition.id}",
                            ex=keys.TRAJECTORY_TTL_SECONDS,
                        )
                    for other in others:
                        alias_key = keys.alias(ref.tenant, other)
                        pipe.set(alias_key, ref.id, ex=keys.TRAJECTORY_TTL_SECONDS)
                    self._note_kin(pipe, transition, linkage)
                    self._note_names(pipe, transition)
                    self._expire(pipe, ref)
                    pipe.zadd(keys.OPEN, {str(ref): finished_at}, gt=True)
                    pipe.zadd(keys.SCORING, {str(ref): time.time()}, nx=True)
                    pipe.hincrby(keys.COUNTS, "transitions", 1)
                    if is_first:
                        pipe.hincrby(keys.COUNTS, "trajectories", 1)
                    pipe.execute()
                    break
                except WatchError:
                    continue
        # Also when it was there: a dispatcher killed in between leaves these undone. Votes come
        # last: what a retry replaced is no target.
        if linkage.call is not None:
            self._settle_attempts(ref.tenant, linkage.call)
        known_as = (ref.id, task_id, linkage.given_id)
        self._join_pending(transition, dict.fromkeys(name for name in known_as if name))
        return stored is None

    @staticmethod
    def _note_kin(pipe: Any, transition: Transition, linkage: Linkage) -> None:
        """Leave the marks that later calls and later attempts are recognised by."""
        for digest, member in linkage.marks:
            link_key = keys.link(transition.tenant, digest)
            pipe.zadd(link_key, {member: transition.started_at}, gt=True)
            pipe.zremrangebyrank(link_key, 0, -keys.LINK_MEMBERS_KEPT - 1)
            pipe.expire(link_key, keys.LINK_TTL_SECONDS)
        if linkage.call is not None:
            attempts_key = keys.attempts(transition.tenant, linkage.call)
            attempt = Attempt.of(transition)
            pipe.zadd(attempts_key, {attempt.member: attempt.started_at})
            pipe.zremrangebyrank(attempts_key, 0, -keys.ATTEMPTS_KEPT - 1)
            pipe.expire(attempts_key, keys.ATTEMPTS_TTL_SECONDS)

    def _settle_attempts(self, tenant: str, call: str) -> None:
        """Take attempts that a retry replaced out of their trajectories."""
        for earlier, _ in superseded(self.attempts(tenant, call)):
            self._supersede(TrajectoryRef(tenant, earlier.trajectory), earlier)

    def _supersede(self, ref: TrajectoryRef, attempt: Attempt) -> None:
        transitions_key = keys.transitions_of(ref.tenant, ref.id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(transitions_key)
                    if pipe.zscore(transitions_key, attempt.transition) is None:
                        return
                    pipe.multi()
                    pipe.zrem(transitions_key, attempt.transition)
                    pipe.zadd(
                        keys.superseded_of(ref.tenant, ref.id),
                        {attempt.transition: attempt.started_at},
                    )
                    pipe.hincrby(keys.trajectory(ref.tenant, ref.id), "revision", 1)
                    pipe.zadd(keys.SCORING, {str(ref): time.time()}, nx=True)
                    self._expire(pipe, ref)
                    pipe.execute()
                    return
                except WatchError:
                    continue

    @staticmethod
    def _set_fields(
        pipe: Any, trajectory_key: str, transition: Transition, times: list[bytes | None]
    ) -> None:
        """Times and names of a trajectory, the same whatever order its transitions come in.

        `times` is what is stored now: when it started and when it was last active.
        """
        finished_at = transition.started_at + transition.latency_seconds
        started_at = min(transition.started_at, float(times[0] or "inf"))
        updated_at = float(times[1] or "-inf")
        names = {
            name: value
            for name in ("session_id", "task", "agent", "policy")
            if (value := getattr(transition, name)) is not None
        }
        fields: dict[str, str | float] = {
            "started_at": started_at,
            "updated_at": max(finished_at, updated_at),
        }
        if finished_at >= updated_at:
            fields |= names
        else:
            for name, value in names.items():
                pipe.hsetnx(trajectory_key, name, value)
        pipe.hset(trajectory_key, mapping=fields)


def _task_id(transition: Transition) -> str | None:
    """What the trajectory would be called if the call had named its task and no session."""
    if transition.session_id is None or transition.task is None:
        return None
    return trajectory_id(transition.tenant, session=None, task=transition.task)
