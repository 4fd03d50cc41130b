"""Scoring: which trajectories changed, and the rewards computed from a revision of them.

A change of a trajectory raises its `revision` and puts it into `scoring`; it
leaves `scoring` only when rewards were computed from that very revision.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from redis import Redis

from trajectories import keys
from trajectories.account import Account
from trajectories.labels import Labels
from trajectories.model import Breakdown, Feedback, Reward
from trajectories.store.keeping import DEFINE
from trajectories.store.reading import Reading
from trajectories.store.refs import Scorable, Scored, TrajectoryRef
from trajectories.store.script import Script
from trajectories.store.unchanged import Change, in_pieces, write_unchanged
from trajectories.tally import MAX_NAMES, OTHER, admit, by_scope, difference

# ARGV: reference, trajectory, prefix of messages, until when it has to be idle, now.
_CLOSE = Script(
    f"{DEFINE} local OPEN, SCORING = '{keys.OPEN}', '{keys.SCORING}'"
    + """
local ref, trajectory, messages, before, now = unpack(ARGV)
local active = redis.call('ZSCORE', OPEN, ref)
if active and tonumber(active) > tonumber(before) then return 0 end
local is_known = redis.call('EXISTS', trajectory)
if is_known == 1 then
  redis.call('HSETNX', trajectory, 'closed', now)
  redis.call('HINCRBY', trajectory, 'revision', 1)
  redis.call('ZADD', SCORING, 'LT', now, ref)
  keep(trajectory, messages)
end
redis.call('ZREM', OPEN, ref)
return is_known
"""
)
_EVER = 1e300  # Lua does not read `inf` everywhere


class Scoring(Reading):
    """Closes trajectories, hands them out for scoring, and takes their rewards."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self._admitted: dict[str, set[str]] = {}  # tenant -> scopes with totals of their own

    def close_idle(self, before: float, limit: int = 500) -> list[TrajectoryRef]:
        """Close trajectories that were last active before `before`, and ask for their scoring."""
        members = self._redis.zrangebyscore(keys.OPEN, "-inf", before, start=0, num=limit)
        return self._close([TrajectoryRef.parse(member) for member in members], before)

    def close(self, ref: TrajectoryRef) -> TrajectoryRef:
        """Close one trajectory: its label window is over."""
        self._close([ref], _EVER)
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

    def still_waiting(self, refs: Sequence[TrajectoryRef]) -> list[TrajectoryRef]:
        """Those of them of which anything changed since their rewards were computed."""
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            pipe.zscore(keys.SCORING, str(ref))
        found = pipe.execute() if refs else []
        return [ref for ref, due_at in zip(refs, found, strict=True) if due_at is not None]

    def scorable(self, ref: TrajectoryRef) -> Scorable | None:
        """A trajectory with its votes, or None when it is gone."""
        return self.scorables([ref])[0]

    def scorables(self, refs: Sequence[TrajectoryRef]) -> list[Scorable | None]:
        """Several at once, in four round trips; raises RecordError when one cannot be read."""
        # First the revision: what is read after it may be newer, and then put_rewards
        # refuses. The other way round, a change in between would never be scored.
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(keys.trajectory(ref.tenant, ref.id), "revision")
        revisions = pipe.execute() if refs else []
        trajectories = self.trajectories(refs)
        pipe = self._redis.pipeline(transaction=False)
        for ref in refs:
            pipe.hvals(keys.feedback_of(ref.tenant, ref.id))
        votes = pipe.execute() if refs else []
        return [
            Scorable(trajectory, _by_id(raw), int(revision or 0)) if trajectory else None
            for trajectory, raw, revision in zip(trajectories, votes, revisions, strict=True)
        ]

    def put_rewards(
        self,
        ref: TrajectoryRef,
        *,
        rewards: Sequence[Reward],
        final: float | None,
        is_labelled: bool,
        revision: int,
        breakdown: Breakdown | None = None,
        account: Account | None = None,
    ) -> bool:
        """Replace a trajectory's rewards by those computed from `revision`.

        False when the trajectory changed meanwhile: compute again. A closed,
        rewarded trajectory becomes trainable for each policy of its `account`
        that was not trained on it, once no label is waited for any more. Without
        an account it is for the policy that answered last.
        """
        scored = Scored(ref, rewards, final, is_labelled, revision, breakdown, account)
        return self.put_all_rewards([scored])[0]

    def put_all_rewards(self, scored: Sequence[Scored]) -> list[bool]:
        """The same for many at once, in two round trips and two more for what changed meanwhile."""
        results: dict[int, bool] = {}
        while len(results) < len(scored):
            waiting = [n for n in range(len(scored)) if n not in results]
            pipe = self._redis.pipeline(transaction=False)
            for n in waiting:
                pipe.hgetall(keys.trajectory(scored[n].ref.tenant, scored[n].ref.id))
            changes: dict[int, Change] = {}
            for n, fields in zip(waiting, pipe.execute(), strict=True):
                if int(fields.get(b"revision", 0)) == scored[n].revision:
                    changes[n] = self._change(scored[n], fields)
                else:
                    results[n] = False
            done = write_unchanged(self._redis, list(changes.values()))
            results |= {n: True for n, is_done in zip(changes, done, strict=True) if is_done}
        return [results[n] for n in range(len(scored))]

    def end_windows(self, now: float, limit: int = 500) -> int:
        """Ask for the scoring of trajectories whose last label window is over; returns how many."""
        members = self._redis.zrangebyscore(keys.WINDOWS, "-inf", now, start=0, num=limit)
        if members:
            pipe = self._redis.pipeline(transaction=True)
            pipe.zadd(keys.SCORING, dict.fromkeys(members, now), nx=True)
            pipe.zrem(keys.WINDOWS, *members)
            pipe.execute()
        return len(members)

    def totals(self, tenant: str) -> dict[str, float]:
        """What all scored trajectories of a tenant add up to: `trajectories.tally`."""
        found = self._redis.hgetall(keys.tally(tenant))
        return {name.decode(): float(value) for name, value in found.items()}

    def _close(self, refs: Sequence[TrajectoryRef], before: float) -> list[TrajectoryRef]:
        """Close those that no transition made active again meanwhile; which were closed."""
        now = time.time()
        calls = [
            (str(ref), keys.trajectory(ref.tenant, ref.id), keys.messages(ref.tenant), before, now)
            for ref in refs
        ]
        replies = _CLOSE.run_all(self._redis, calls)
        return [ref for ref, is_closed in zip(refs, replies, strict=True) if is_closed]

    def _change(self, scored: Scored, fields: Mapping[bytes, bytes]) -> Change:
        """What putting these rewards means for a trajectory with these fields."""
        ref, final = scored.ref, scored.final
        is_labelled = scored.is_labelled and final is not None
        trajectory_key = keys.trajectory(ref.tenant, ref.id)
        rewards_key = keys.rewards_of(ref.tenant, ref.id)
        kept = scored.account or _account_without_calls(fields)
        tally = admit(kept.tally, self._name_for(ref.tenant, kept.tally))
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(trajectory_key, "scored", scored.revision)  # first: a full Redis refuses it
        pipe.hincrby(trajectory_key, "edition", 1)
        pipe.delete(rewards_key)
        for some in in_pieces({reward.id: reward.to_json() for reward in scored.rewards}):
            pipe.hset(rewards_key, mapping=some)
        is_rollout = b"rollout" in fields  # nobody asked for it: it counts for nothing
        if not is_rollout:
            self._count(pipe, fields, final, is_labelled)
        if final is None:
            pipe.hdel(trajectory_key, "reward", "labelled", "breakdown")
        else:
            said = {"reward": repr(final), "labelled": int(is_labelled)}
            pipe.hset(trajectory_key, mapping=said)
            if scored.breakdown is not None:
                pipe.hset(trajectory_key, "breakdown", scored.breakdown.to_json())
        if b"closed" in fields:
            pipe.zadd(keys.ARCHIVING, {str(ref): time.time()})
        self._add_up(pipe, ref, fields, tally)
        self._note_labels(pipe, ref, fields, kept)
        for policy in kept.policies:
            self._offer(pipe, ref, fields, policy, final, kept.waited_until)
            if not is_rollout:
                self._note_labellers(pipe, policy, scored.rewards)
        pipe.zrem(keys.SCORING, str(ref))
        return Change(ref, fields, pipe)

    @staticmethod
    def _count(
        pipe: Any, fields: Mapping[bytes, bytes], final: float | None, is_labelled: bool
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
        fields: Mapping[bytes, bytes],
        policy: str,
        final: float | None,
        waited_until: float,
    ) -> None:
        """Put a closed, rewarded, unused trajectory before a trainer, or take it back."""
        is_used = b"used" in fields or keys.used(policy).encode() in fields
        is_ready = b"closed" in fields and waited_until <= time.time()
        if final is not None and is_ready and not is_used:
            pipe.zadd(keys.trainable(policy), {str(ref): float(fields.get(b"updated_at", 0))})
        else:
            pipe.zrem(keys.trainable(policy), str(ref))

    @staticmethod
    def _note_labellers(pipe: Any, policy: str, rewards: Sequence[Reward]) -> None:
        """Remember who labels at all: a round wants to hear several of them."""
        found = {reward.principal for reward in rewards} - {None}
        if found:
            now, key = time.time(), keys.labellers(policy)
            for some in in_pieces(dict.fromkeys(found, now)):
                pipe.zadd(key, some)
            pipe.zremrangebyscore(key, "-inf", now - keys.LABELLERS_TTL_SECONDS)
            pipe.zremrangebyrank(key, 0, -keys.LABELLERS_KEPT - 1)

    @staticmethod
    def _note_labels(
        pipe: Any, ref: TrajectoryRef, fields: Mapping[bytes, bytes], account: Account
    ) -> None:
        """Note how far the labels are, and when to look again where some are waited for."""
        pipe.hset(keys.trajectory(ref.tenant, ref.id), "labels", account.labels.value)
        was_late = fields.get(b"labels") == Labels.LATE.value.encode()
        is_late = account.labels is Labels.LATE
        if is_late != was_late and b"rollout" not in fields:
            pipe.hincrby(keys.COUNTS, "late", int(is_late) - int(was_late))
        if b"closed" in fields and account.waited_until > time.time():
            pipe.zadd(keys.WINDOWS, {str(ref): account.waited_until})
        else:
            pipe.zrem(keys.WINDOWS, str(ref))

    @staticmethod
    def _add_up(
        pipe: Any, ref: TrajectoryRef, fields: Mapping[bytes, bytes], tally: dict[str, float]
    ) -> None:
        """Move the tenant's totals by the difference to what this trajectory counted for before."""
        before = orjson.loads(fields[b"tally"]) if b"tally" in fields else {}
        for name, moved in sorted(difference(tally, before).items()):
            pipe.hincrbyfloat(keys.tally(ref.tenant), name, moved)
        if tally != before:
            pipe.hset(keys.trajectory(ref.tenant, ref.id), "tally", orjson.dumps(tally))

    def _name_for(self, tenant: str, tally: Mapping[str, float]) -> Callable[[str, str], str]:
        """Which names of a tally have totals of their own; asks Redis only about new ones."""
        known = self._admitted.setdefault(tenant, set())
        named = {scope for scope in by_scope(tally) if ":" in scope}
        if not named <= known:
            known.update(by_scope(self.totals(tenant)))

        def name_for(kind: str, name: str) -> str:
            scope = f"{kind}:{name}"
            if scope in known:
                return name
            if sum(other.startswith(f"{kind}:") for other in known) >= MAX_NAMES[kind]:
                return OTHER
            known.add(scope)
            return name

        return name_for


def _account_without_calls(fields: Mapping[bytes, bytes]) -> Account:
    """Of a trajectory whose calls nobody looked at."""
    policy = fields.get(b"policy", b"").decode()
    return Account((policy,) if policy else ())


def _by_id(votes: Iterable[bytes]) -> tuple[Feedback, ...]:
    return tuple(sorted((Feedback.from_json(raw) for raw in votes), key=lambda vote: vote.id))
