"""Any order of transitions, votes, changed votes, replays, closing and scoring: one outcome."""

from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.key_leak import key_leaks
from tests.workers.records import transition, vote
from trajectories.connection import connect
from trajectories.model import Feedback, Transition
from trajectories.settings import RedisSettings, RewardSettings
from trajectories.store import Scorable, Store, TrajectoryRef
from workers.jobs import Scorer

SCORER = Scorer.from_settings(RewardSettings())
TRAJECTORIES = ("traj_a", "traj_b")

Record = Transition | Feedback

transitions = [
    transition(
        number,
        trajectory=name,
        content="x",
        finish_reason="length" if number == 1 else "stop",
    )
    for name in TRAJECTORIES
    for number in range(3)
]
targets = st.one_of(
    st.builds(dict, trajectory=st.sampled_from(TRAJECTORIES)),
    st.builds(dict, response=st.sampled_from([str(t.response_id) for t in transitions])),
)
votes = st.builds(
    lambda target, reward, source, at: vote(reward, source=source, at=float(at), **target),
    targets,
    st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]),
    st.sampled_from(["human", "code", "judge"]),
    st.integers(1, 3),
)


def apply(store: Store, record: Record) -> None:
    if isinstance(record, Transition):
        store.add_transition(record)
    else:
        store.add_feedback(record)


def outcome(store: Store) -> dict[str, Any]:
    """Close and score everything, and say what came out."""
    found = {}
    for name in TRAJECTORIES:
        ref = TrajectoryRef("default", name)
        store.close(ref)
        SCORER.score(store, ref)
        trajectory = store.trajectory(ref)
        assert trajectory is not None
        assert not store.is_waiting_for_scoring(ref)
        found[name] = (trajectory.reward, trajectory.rewards, trajectory.updated_at)
    found["counts"] = {  # type: ignore[assignment]
        name: round(total, 9) for name, total in store.counts().items()
    }
    found["trainable"] = sorted(str(ref) for ref in store.trainable("policy", 99))  # type: ignore[assignment]
    return found


class AnyOrder(RuleBasedStateMachine):
    """Delivers a fixed set of records in an order of hypothesis' choosing."""

    server: ClassVar[RedisSettings]

    @initialize(said=st.lists(votes, max_size=8, unique_by=lambda entry: entry.id))
    def begin(self, said: list[Feedback]) -> None:
        self.redis = connect(self.server)
        self.redis.flushall()
        self.store = Store(self.redis)
        self.records: list[Record] = [*transitions, *said]
        self.left: list[Record] = list(self.records)
        self.seen: list[Record] = []
        self.read: Scorable | None = None

    @precondition(lambda self: self.left)
    @rule(pick=st.integers(0, 99))
    def deliver(self, pick: int) -> None:
        record = self.left.pop(pick % len(self.left))
        apply(self.store, record)
        self.seen.append(record)

    @precondition(lambda self: self.seen)
    @rule(pick=st.integers(0, 99))
    def replay(self, pick: int) -> None:
        apply(self.store, self.seen[pick % len(self.seen)])

    @rule(name=st.sampled_from(TRAJECTORIES))
    def score(self, name: str) -> None:
        SCORER.score(self.store, TrajectoryRef("default", name))

    @rule()
    def close_idle(self) -> None:
        self.store.close_idle(1e9)

    @rule(name=st.sampled_from(TRAJECTORIES))
    def begin_scoring(self, name: str) -> None:
        self.read = self.store.scorable(TrajectoryRef("default", name))

    @precondition(lambda self: self.read is not None)
    @rule()
    def end_scoring(self) -> None:
        assert self.read is not None
        ref = TrajectoryRef("default", self.read.trajectory.id)
        now = self.store.scorable(ref)
        assert now is not None
        is_stored = self.store.put_all_rewards([SCORER.reckon(self.store, ref, self.read)])[0]
        assert is_stored == (now.revision == self.read.revision)

    @invariant()
    def whatever_changed_is_waiting(self) -> None:
        if not hasattr(self, "redis"):
            return
        for name in TRAJECTORIES:
            fields = self.redis.hgetall(f"trajectory:default:{name}")
            if fields and fields.get(b"scored") != fields[b"revision"]:
                assert self.store.is_waiting_for_scoring(TrajectoryRef("default", name))

    def teardown(self) -> None:
        if not hasattr(self, "redis"):
            return
        for record in self.left:
            apply(self.store, record)
        leaks = key_leaks(self.redis)
        found, pending = outcome(self.store), self.store.count_pending()
        self.redis.flushall()
        plain = Store(self.redis)
        for record in self.records:
            apply(plain, record)
        assert found == outcome(plain)
        assert pending == 0
        assert leaks == []
        self.redis.close()


def test_any_order_of_records_and_scorings_has_the_same_outcome(
    redis_settings: RedisSettings,
) -> None:
    AnyOrder.server = redis_settings
    often = settings(max_examples=40, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(AnyOrder, settings=often)  # type: ignore[no-untyped-call]
