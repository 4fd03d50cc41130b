"""The panel: everybody that gives verdicts in this process, and one verdict from ask to vote."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from rq.timeouts import JobTimeoutException

from trajectories import keys
from trajectories.errors import ScrubError
from trajectories.ids import derived_id
from trajectories.model import FeedbackSource, Trajectory
from trajectories.privacy.scrubber import Scrubber
from trajectories.privacy.tombstones import Tombstones
from trajectories.store import Store, TrajectoryRef, VerdictState
from workers.verdicts.budget import Budget, Purse
from workers.verdicts.calibration import Calibration
from workers.verdicts.chat import Oracle, Question
from workers.verdicts.custom import Custom
from workers.verdicts.groups import Group, Waiting
from workers.verdicts.judges import (
    group_of,
    next_state_question,
    next_states,
    opinion_of,
    pointwise_question,
    relative_question,
)
from workers.verdicts.limits import MOST_RETRY_SECONDS, RETRY_SECONDS, time_limit
from workers.verdicts.opinions import NoVerdict, Opinion
from workers.verdicts.roster import Roster
from workers.verdicts.votes import post_votes, verdict_votes
from workers.verdicts.webhook import Webhook

log = logging.getLogger(__name__)


Given = list[tuple[Trajectory, list[Opinion]]]


@dataclass(slots=True)
class Panel:
    """Judges, webhooks and custom rewards, ready to be asked."""

    roster: Roster
    oracles: Mapping[str, Oracle] = field(default_factory=dict)
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    customs: Mapping[str, Custom] = field(default_factory=dict)
    scrubber: Scrubber = field(default_factory=lambda: Scrubber(()))
    retry_seconds: float = RETRY_SECONDS
    siblings: int = 0  # how many answers a recorded prompt gets

    def give(self, store: Store, redis: Redis, ask: str) -> None:
        """Answer one ask (`judge tenant/trajectory`): a vote, or a failure that is counted.

        May run twice: the second time finds what the first has said.
        """
        name, _, text = ask.partition(" ")
        ref = TrajectoryRef.parse(text)
        due = store.verdict_due(name, ref)
        if due is None:
            return
        trajectory = store.trajectory(ref) if name in self.roster.sources else None
        if (
            trajectory is None
            or not trajectory.is_closed
            or name not in self.roster.due_for(trajectory)
        ):
            store.settle_verdict(name, ref, due)  # it is asked for again when it closes again
            return
        stamp = self.roster.stamp(name, trajectory)
        before = store.verdict_states(ref).get(name)
        is_same = before is not None and before.stamp == stamp
        if before is not None and is_same and before.is_over:
            store.settle_verdict(name, ref, due)
            return
        attempts = (before.attempts if before is not None and is_same else 0) + 1
        limit = self.roster.sources[name].attempts
        state = VerdictState(
            stamp=stamp,
            state="retried",
            attempts=attempts,
            reason="interrupted",
            votes=before.votes if before else (),
            at=time.time(),
        )
        store.put_verdict_state(name, ref, state)  # so that what kills this process is tried seldom
        try:
            if attempts > limit:
                raise NoVerdict("interrupted", f"{limit} jobs ended before there was a verdict")
            given = self._given(store, redis, name, trajectory)
            for member, opinions in given:
                self._post(store, redis, name, member, opinions)
        except Waiting as waiting:
            if Tombstones(redis).is_buried(trajectory):
                store.settle_verdict(name, ref, due)
                return
            update = {"state": "waiting", "attempts": attempts - 1, "reason": str(waiting)}
            said = store.verdict_states(ref).get(name)
            if said is not None and said.stamp == stamp and said.is_over:
                store.settle_verdict(name, ref, due)  # by another's job, for the whole group
                return
            store.put_verdict_state(name, ref, state.model_copy(update=update))
            store.settle_verdict(name, ref, due, waiting.until)
            return
        except (NoVerdict, JobTimeoutException) as error:
            failure = (
                error
                if isinstance(error, NoVerdict)
                else NoVerdict("timeout", "the job's own time was over")
            )
            self._fail(store, redis, name, trajectory, state, due, failure)
            return
        store.settle_verdict(name, ref, due)

    def close(self) -> None:
        """End the processes of custom rewards."""
        for custom in self.customs.values():
            custom.close()

    def source(self, name: str) -> FeedbackSource:
        """Whom the votes are from."""
        return FeedbackSource(type="judge" if name in self.oracles else "code", id=name)

    def _fail(
        self,
        store: Store,
        redis: Redis,
        name: str,
        trajectory: Trajectory,
        state: VerdictState,
        due: str,
        failure: NoVerdict,
    ) -> None:
        """No verdict this time, or ever: what it said of other content is withdrawn, not made 0."""
        ref = TrajectoryRef(trajectory.tenant, trajectory.id)
        if Tombstones(redis).is_buried(trajectory):
            store.settle_verdict(name, ref, due)
            return
        now = time.time()
        store.count_verdict(name, ref.tenant, {f"failed:{failure.reason}": 1})
        is_last = state.attempts >= self.roster.sources[name].attempts
        log.warning(
            "no verdict by %s: %s, try %d", name, failure.reason, state.attempts,
            extra={"ref": str(ref)},
        )  # fmt: skip
        update: dict[str, Any] = {"reason": failure.reason, "at": now}
        if not is_last:
            store.put_verdict_state(name, ref, state.model_copy(update=update))
            store.settle_verdict(name, ref, due, self._again_at(failure, state.attempts, now))
            return
        post_votes(store, ref, (), state, source=self.source(name), stamp=state.stamp, at=now)
        update |= {"state": "failed", "votes": ()}
        store.put_verdict_state(name, ref, state.model_copy(update=update))
        store.quarantine_verdict(name, ref, failure.reason, failure.detail)
        store.settle_verdict(name, ref, due)

    def _again_at(self, failure: NoVerdict, attempts: int, now: float) -> float:
        """Later each time; when a day's budget is used up, in the next day."""
        if failure.reason == "budget":
            return (now // keys.DAY + 1) * keys.DAY + self.retry_seconds
        return now + min(MOST_RETRY_SECONDS, self.retry_seconds * 4.0 ** (attempts - 1))

    def _post(
        self, store: Store, redis: Redis, name: str, trajectory: Trajectory, opinions: list[Opinion]
    ) -> None:
        ref = TrajectoryRef(trajectory.tenant, trajectory.id)
        if Tombstones(redis).is_buried(trajectory):  # while it was judged
            return
        stamp, now = self.roster.stamp(name, trajectory), time.time()
        before = store.verdict_states(ref).get(name)
        votes = verdict_votes(
            trajectory,
            opinions,
            source=self.source(name),
            stamp=stamp,
            calibration=calibration_of(redis, name, ref.tenant) if name in self.oracles else None,
            at=now,
        )
        held = post_votes(store, ref, votes, before, source=self.source(name), stamp=stamp, at=now)
        word = "given" if votes else "abstained"
        state = VerdictState(
            stamp=stamp, state=word, attempts=before.attempts if before else 1, votes=held, at=now
        )
        store.put_verdict_state(name, ref, state)
        store.count_verdict(name, ref.tenant, {word: 1})

    def _given(self, store: Store, redis: Redis, name: str, trajectory: Trajectory) -> Given:
        """What `name` says, of this trajectory or of the group that it is in."""
        if name in self.webhooks:
            stamp = self.roster.stamp(name, trajectory)
            message_id = derived_id("msg", name, trajectory.tenant, trajectory.id, stamp)
            return [(trajectory, self.webhooks[name].rewards(self._shown(trajectory), message_id))]
        if name in self.customs:
            return [(trajectory, self.customs[name].rewards(trajectory))]
        oracle = self.oracles[name]
        own = oracle.settings
        reward = own.reward or name
        if own.kind == "relative":
            return self._compared(store, redis, oracle, trajectory, reward)
        if own.kind == "pointwise":
            scores = self._ask(
                redis, oracle, trajectory.tenant, pointwise_question(self._shown(trajectory), own)
            )
            opinions = [opinion_of(score, reward) for score in scores]
        else:
            states = next_states(self._shown(trajectory))
            if not states:
                return [(trajectory, [])]
            question = next_state_question([(said, later) for _, said, later in states], own)
            scores = self._ask(redis, oracle, trajectory.tenant, question)
            opinions = [
                opinion_of(score, reward, transition_id)
                for score, (transition_id, _, _) in zip(scores, states, strict=True)
            ]
        return [(trajectory, [opinion for opinion in opinions if opinion is not None])]

    def _shown(self, trajectory: Trajectory) -> Trajectory:
        """What leaves this machine of a trajectory: without what identifies people."""
        try:
            return self.scrubber.scrub(trajectory)
        except ScrubError as error:
            raise NoVerdict("error", f"the scrub failed: {error}") from error

    def _ask(self, redis: Redis, oracle: Oracle, tenant: str, question: Question) -> Any:
        budget = Budget(oracle.settings.calls_per_day, oracle.settings.tokens_per_day)
        purse = Purse(redis, budget, tenant=tenant, judge=oracle.name)
        return oracle.ask(question, redis, purse, tenant)

    def _compared(
        self, store: Store, redis: Redis, oracle: Oracle, trajectory: Trajectory, reward: str
    ) -> Given:
        """The whole group's scores, once it is full or has waited long enough with two in it."""
        own = oracle.settings
        digest = group_of(trajectory)
        now = time.time()
        if digest is None:
            return [(trajectory, [])]
        group = Group(redis, tenant=trajectory.tenant, judge=oracle.name, digest=digest)
        since = group.join(trajectory.id, now)
        waiting = group.members()
        until = waiting[0][1] + own.group_seconds
        original = self._original(store, trajectory)
        size = own.group_size
        if trajectory.rollout is not None and self.siblings:  # no more will come
            size = min(size, self.siblings + (original is not None))
        if len(waiting) + (original is not None) < size and now < until:
            raise Waiting(until, "the group is not full")
        with group.alone(time_limit(own), now):
            chosen = [name for name, _ in group.members() if name != trajectory.id]
            found: dict[str, Trajectory] = {trajectory.id: trajectory}
            if original is not None:
                found[original.id] = original
            for name in chosen:
                if len(found) == own.group_size:
                    break
                member = store.trajectory(TrajectoryRef(trajectory.tenant, name))
                if member is None or not member.is_closed or not member.transitions:
                    group.leave(name)
                else:
                    found[name] = member
            if len(found) < 2:
                if now - since < own.attempts * own.group_seconds:
                    raise Waiting(now + own.group_seconds, "there is nothing to compare it with")
                group.leave(trajectory.id)
                return [(trajectory, [])]
            members = [found[name] for name in sorted(found)]
            scores = self._ask(
                redis,
                oracle,
                trajectory.tenant,
                relative_question([self._shown(member) for member in members], own),
            )
            for member, score in zip(members, scores, strict=True):
                opinion = opinion_of(score, reward)
                if member is original and oracle.name not in self.roster.due_for(member):
                    continue  # it is there to be compared with
                self._post(store, redis, oracle.name, member, [opinion] if opinion else [])
            group.leave(*found)  # not before: who dies in between finds them waiting still
        return []

    @staticmethod
    def _original(store: Store, trajectory: Trajectory) -> Trajectory | None:
        """The recorded trajectory that this one is a sibling in."""
        if trajectory.rollout is None:
            return None
        ref = store.trajectory_of(trajectory.tenant, trajectory.rollout)
        found = store.trajectory(ref) if ref is not None else None
        return found if found is not None and found.is_closed and found.transitions else None


def calibration_of(redis: Redis, judge: str, tenant: str) -> Calibration | None:
    """The calibration in force, or None."""
    client: Any = redis
    raw = client.get(keys.calibration(tenant, judge))
    return Calibration.from_json(raw) if raw else None
