"""The store: transitions, feedback, rewards and trajectories in Redis.

One synchronous class for all three processes. Every write is idempotent: the
same record twice has one effect, because a stage may always run twice. What
was said of a trajectory and what was recorded of it may arrive in any order;
feedback whose target is not known yet waits under the target's name.

A change of a trajectory raises its `revision` and puts it into `scoring`; it
leaves `scoring` only when rewards were computed from that very revision.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis, WatchError

from trajectories import keys
from trajectories.agents import name_agents
from trajectories.attempts import Attempt, superseded
from trajectories.ids import trajectory_id
from trajectories.model import Feedback, Reward, Trajectory, Transition

COUNTS = ("transitions", "trajectories", "rewarded", "labelled", "feedback", "quarantined")


@dataclass(frozen=True, slots=True)
class TrajectoryRef:
    """A trajectory and whose it is; written `tenant/id`."""

    tenant: str
    id: str

    @classmethod
    def parse(cls, text: str | bytes) -> "TrajectoryRef":
        tenant, _, trajectory_id = (text.decode() if isinstance(text, bytes) else text).partition(
            "/"
        )
        return cls(tenant, trajectory_id)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.id}"


@dataclass(frozen=True, slots=True)
class Scorable:
    """What a reward job needs: the trajectory, the votes on it, and their revision."""

    trajectory: Trajectory
    feedback: tuple[Feedback, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Linkage:
    """What is known of a transition's kin, and what they will be recognised by.

    `given_id` is the trajectory id that the client was told; `marks` are pairs
    of a digest and a member to note under it; `call` is equal for all attempts
    at one call.
    """

    given_id: str | None = None
    marks: Sequence[tuple[str, str]] = ()
    call: str | None = None


class Store:
    """Reads and writes records. Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py types replies as bytes | str; ours are bytes

    # -- what the dispatcher writes ------------------------------------------------

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
        # Also when it was there: a dispatcher killed in between leaves these undone.
        targets = (ref.id, transition.response_id, task_id, linkage.given_id)
        self._join_pending(ref, dict.fromkeys(name for name in targets if name))
        if linkage.call is not None:
            self._settle_attempts(ref.tenant, linkage.call)
        return stored is None

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

    def locate(self, ref: TrajectoryRef) -> TrajectoryRef | None:
        """The recorded trajectory of that id, else the one that has it as another name."""
        if self._redis.hexists(keys.trajectory(ref.tenant, ref.id), "started_at"):
            return ref
        found = self._redis.get(keys.alias(ref.tenant, ref.id))
        return TrajectoryRef(ref.tenant, found.decode()) if found else None

    def transition_of_response(self, tenant: str, response_id: str) -> str | None:
        """The transition a response id belongs to."""
        found = self._redis.get(keys.response(tenant, response_id))
        return found.split()[1].decode() if found else None

    def close_idle(self, before: float, limit: int = 500) -> list[TrajectoryRef]:
        """Close trajectories that were last active before `before`, and ask for their scoring."""
        members = self._redis.zrangebyscore(keys.OPEN, "-inf", before, start=0, num=limit)
        refs = [TrajectoryRef.parse(member) for member in members]
        return [ref for ref in refs if self._close(ref, before)]

    def close(self, ref: TrajectoryRef) -> TrajectoryRef:
        """Close one trajectory: its label window is over."""
        self._close(ref, float("inf"))
        return ref

    def claim_scoring(
        self, asked_before: float, again_at: float, limit: int = 500
    ) -> list[TrajectoryRef]:
        """Trajectories whose reward job is due, oldest first; they are due again at `again_at`.

        The caller enqueues a job for each. It is claimed before that and never
        after: a change that comes in between is seen by the job, and a job
        that is lost is asked for again.
        """
        refs = self.waiting_for_scoring(asked_before, limit)
        if refs:
            self._redis.zadd(keys.SCORING, {str(ref): again_at for ref in refs}, xx=True)
        return refs

    def waiting_for_scoring(self, asked_before: float, limit: int = 1000) -> list[TrajectoryRef]:
        """Trajectories whose reward job is due before `asked_before`."""
        members = self._redis.zrangebyscore(keys.SCORING, "-inf", asked_before, start=0, num=limit)
        return [TrajectoryRef.parse(member) for member in members]

    def is_waiting_for_scoring(self, ref: TrajectoryRef) -> bool:
        """Whether anything changed since the rewards were computed."""
        return self._redis.zscore(keys.SCORING, str(ref)) is not None

    def stop_scoring(self, ref: TrajectoryRef) -> None:
        """Ask no more for the rewards of a trajectory that is gone."""
        self._redis.zrem(keys.SCORING, str(ref))

    def expire_pending(self, now: float) -> int:
        """Forget targets that never came; returns how many."""
        return int(self._redis.zremrangebyscore(keys.PENDING, "-inf", now))

    # -- what a reward job reads and writes ----------------------------------------

    def scorable(self, ref: TrajectoryRef) -> Scorable | None:
        """A trajectory with its votes, or None when it is gone."""
        # First the revision: what is read after it may be newer, and then put_rewards
        # refuses. The other way round, a change in between would never be scored.
        revision = int(self._redis.hget(keys.trajectory(ref.tenant, ref.id), "revision") or 0)
        trajectory = self.trajectory(ref)
        if trajectory is None:
            return None
        votes = self._redis.hvals(keys.feedback_of(ref.tenant, ref.id))
        feedback = tuple(sorted((Feedback.from_json(raw) for raw in votes), key=lambda f: f.id))
        return Scorable(trajectory, feedback, revision)

    def put_rewards(
        self,
        ref: TrajectoryRef,
        *,
        rewards: Sequence[Reward],
        final: float | None,
        is_labelled: bool,
        revision: int,
    ) -> bool:
        """Replace a trajectory's rewards by those computed from `revision`.

        False when the trajectory changed meanwhile: compute again. A closed,
        rewarded trajectory that was not trained on becomes trainable.
        """
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        rewards_key = keys.rewards_of(ref.tenant, ref.id)
        is_labelled = is_labelled and final is not None
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(trajectory_key)
                    fields = pipe.hgetall(trajectory_key)
                    if int(fields.get(b"revision", 0)) != revision:
                        return False
                    policy = fields.get(b"policy", b"").decode()
                    pipe.multi()
                    pipe.delete(rewards_key)
                    if rewards:
                        pipe.hset(
                            rewards_key, mapping={reward.id: reward.to_json() for reward in rewards}
                        )
                    self._count(pipe, fields, final, is_labelled)
                    if final is None:
                        pipe.hdel(trajectory_key, "reward", "labelled")
                    else:
                        pipe.hset(
                            trajectory_key,
                            mapping={"reward": repr(final), "labelled": int(is_labelled)},
                        )
                    pipe.hset(trajectory_key, "scored", revision)
                    self._offer(pipe, ref, fields, policy, final)
                    pipe.zrem(keys.SCORING, str(ref))
                    self._expire(pipe, ref)
                    pipe.execute()
                    return True
                except WatchError:
                    continue

    # -- what the trainer reads and claims -----------------------------------------

    def trainable(self, policy: str, limit: int) -> list[TrajectoryRef]:
        """Closed, rewarded trajectories nobody trained on, oldest first."""
        members = self._redis.zrange(keys.trainable(policy), 0, limit - 1)
        return [TrajectoryRef.parse(member) for member in members]

    def count_trainable(self, policy: str) -> int:
        return int(self._redis.zcard(keys.trainable(policy)))

    def mark_used(self, policy: str, refs: Iterable[TrajectoryRef]) -> None:
        """Take trajectories out of every later round; repeating it changes nothing."""
        members = [str(ref) for ref in refs]
        if not members:
            return
        now = time.time()
        pipe = self._redis.pipeline(transaction=True)
        pipe.zadd(keys.used(policy), dict.fromkeys(members, now), nx=True)
        pipe.zrem(keys.trainable(policy), *members)
        pipe.zremrangebyscore(keys.used(policy), "-inf", now - keys.USED_TTL_SECONDS)
        for ref in members:
            parsed = TrajectoryRef.parse(ref)
            pipe.hset(keys.trajectory(parsed.tenant, parsed.id), "used", 1)
            self._expire(pipe, parsed)
        pipe.execute()

    # -- what everybody reads ------------------------------------------------------

    def trajectory(self, ref: TrajectoryRef) -> Trajectory | None:
        """A trajectory with its transitions and rewards, or None."""
        pipe = self._redis.pipeline(transaction=True)
        pipe.hgetall(keys.trajectory(ref.tenant, ref.id))
        pipe.zrange(keys.transitions_of(ref.tenant, ref.id), 0, -1)
        pipe.hvals(keys.rewards_of(ref.tenant, ref.id))
        fields, transition_ids, rewards = pipe.execute()
        if b"started_at" not in fields:
            return None
        names = [keys.transition(ref.tenant, member.decode()) for member in transition_ids]
        found = self._redis.mget(names) if names else []
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return Trajectory(
            id=ref.id,
            tenant=ref.tenant,
            session_id=text.get("session_id"),
            task=text.get("task"),
            agent=text.get("agent"),
            policy=text.get("policy") or None,
            started_at=float(text["started_at"]),
            updated_at=float(text["updated_at"]),
            is_closed="closed" in text,
            reward=float(text["reward"]) if "reward" in text else None,
            transitions=name_agents(
                [Transition.from_json(raw) for raw in found if raw is not None]
            ),
            rewards=tuple(
                sorted((Reward.from_json(raw) for raw in rewards), key=lambda reward: reward.id)
            ),
        )

    def all_trajectories(self) -> Iterable[TrajectoryRef]:
        """Every trajectory in the hot window, in no order."""
        for name in self._redis.scan_iter(match="trajectory:*", count=1000):
            parts = name.decode().split(":")
            if len(parts) == 3:
                yield TrajectoryRef(parts[1], parts[2])

    def counts(self) -> dict[str, float]:
        """Totals since the store was made, with `reward_sum` over rewarded trajectories."""
        totals = self._redis.hgetall(keys.COUNTS)
        stored = {name.decode(): float(value) for name, value in totals.items()}
        return {name: stored.get(name, 0.0) for name in (*COUNTS, "reward_sum")}

    def count_pending(self) -> int:
        """How many targets feedback is waiting for."""
        return int(self._redis.zcard(keys.PENDING))

    def feedback(self, tenant: str, feedback_id: str) -> Feedback | None:
        """One feedback item as it was posted."""
        raw = self._redis.get(keys.feedback(tenant, feedback_id))
        return Feedback.from_json(raw) if raw else None

    def attempts(self, tenant: str, call: str) -> list[Attempt]:
        """The attempts at one call that were recorded lately, in order."""
        found = self._redis.zrange(keys.attempts(tenant, call), 0, -1, withscores=True)
        return [Attempt.parse(member, started_at) for member, started_at in found]

    # -- inside --------------------------------------------------------------------

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

    def _close(self, ref: TrajectoryRef, before: float) -> bool:
        """Close unless a transition made the trajectory active again meanwhile."""
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        with self._redis.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(trajectory_key)
                    active_at = pipe.zscore(keys.OPEN, str(ref))
                    if active_at is not None and active_at > before:
                        return False
                    is_known = pipe.exists(trajectory_key)
                    pipe.multi()
                    pipe.zrem(keys.OPEN, str(ref))
                    if is_known:
                        pipe.hset(trajectory_key, "closed", 1)
                        pipe.hincrby(trajectory_key, "revision", 1)
                        pipe.zadd(keys.SCORING, {str(ref): time.time()}, nx=True)
                        self._expire(pipe, ref)
                    pipe.execute()
                    return bool(is_known)
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

    @staticmethod
    def _count(
        pipe: Any, fields: dict[bytes, bytes], final: float | None, is_labelled: bool
    ) -> None:
        """Move the totals by the difference to what this trajectory counted for before."""
        before = float(fields[b"reward"]) if b"reward" in fields else None
        pipe.hincrby(keys.COUNTS, "rewarded", (final is not None) - (before is not None))
        pipe.hincrby(keys.COUNTS, "labelled", int(is_labelled) - int(fields.get(b"labelled", b"0")))
        pipe.hincrbyfloat(keys.COUNTS, "reward_sum", (final or 0.0) - (before or 0.0))

    @staticmethod
    def _offer(
        pipe: Any,
        ref: TrajectoryRef,
        fields: dict[bytes, bytes],
        policy: str,
        final: float | None,
    ) -> None:
        """Put a closed, rewarded, unused trajectory before the trainer, or take it back."""
        if not policy:
            return
        is_offered = final is not None and b"closed" in fields and b"used" not in fields
        if is_offered:
            pipe.zadd(keys.trainable(policy), {str(ref): float(fields.get(b"updated_at", 0))})
        else:
            pipe.zrem(keys.trainable(policy), str(ref))

    @staticmethod
    def _expire(pipe: Any, ref: TrajectoryRef) -> None:
        for key in (
            keys.trajectory(ref.tenant, ref.id),
            keys.transitions_of(ref.tenant, ref.id),
            keys.superseded_of(ref.tenant, ref.id),
            keys.feedback_of(ref.tenant, ref.id),
            keys.rewards_of(ref.tenant, ref.id),
        ):
            pipe.expire(key, keys.TRAJECTORY_TTL_SECONDS)


def _task_id(transition: Transition) -> str | None:
    """What the trajectory would be called if the call had named its task and no session."""
    if transition.session_id is None or transition.task is None:
        return None
    return trajectory_id(transition.tenant, session=None, task=transition.task)
