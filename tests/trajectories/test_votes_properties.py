"""Any order of transitions, votes, changed minds, replays, retractions, expiry, a trainer's claim.

Whatever comes when: each id has one effect, and the final rewards are those of the
same records in a plain order, without the votes that expired before their target came.
"""

import time
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
from tests.workers.records import call, transition
from trajectories import keys
from trajectories.connection import connect
from trajectories.ids import derived_id
from trajectories.model import Feedback, FeedbackSource, Retraction, Transition
from trajectories.names import text_digest
from trajectories.settings import RedisSettings, RewardSettings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer

SCORER = Scorer.from_settings(RewardSettings())
TRAJECTORIES = ("traj_a", "traj_b")
TEXTS = ("It is sunny in Seoul today.", "It rains.")

Record = Transition | Feedback | Retraction

# Both trajectories hold an answer that reads the same, and one call id.
transitions = [
    transition(
        number,
        trajectory=name,
        content=TEXTS[number % 2],
        calls=[call("get_weather", '{"city":"Seoul"}', f"call_{name}_{number % 2}")],
    ).model_copy(update={"request_id": f"req-{name}-{number}"})
    for name in TRAJECTORIES
    for number in range(3)
]
targets = st.one_of(
    st.builds(dict, trajectory_id=st.sampled_from(TRAJECTORIES)),
    st.builds(dict, trajectory_id=st.sampled_from(TRAJECTORIES), step=st.integers(-4, 4)),
    st.builds(dict, response_id=st.sampled_from([str(t.response_id) for t in transitions])),
    st.builds(lambda of: {"named": f"request:{of.request_id}"}, st.sampled_from(transitions)),
    st.builds(lambda of: {"named": f"span:{of.id}"}, st.sampled_from(transitions)),
    st.builds(lambda of: {"named": f"span:{of.response_id}"}, st.sampled_from(transitions)),
    st.builds(
        lambda name, number: {"named": f"tool_call:call_{name}_{number}"},
        st.sampled_from(TRAJECTORIES),
        st.integers(0, 1),
    ),
    st.builds(lambda text: {"named": f"text:{text_digest(text)}"}, st.sampled_from(TEXTS)),
    st.builds(
        lambda of, within: {"response_id": of.response_id, "within": within},
        st.sampled_from(transitions),
        st.sampled_from(TRAJECTORIES),
    ),
    st.just({"response_id": "chatcmpl-never"}),
)


def build(
    number: int, target: dict[str, Any], reward: float | None, source: str, at: float, own: int
) -> Feedback:
    """A vote; `own` above 0 is one of two ids that clients chose, used for several bodies."""
    return Feedback(
        id=f"own-{own}" if own else f"fb-{number}",
        identity=derived_id("vote", "id", str(own)) if own else f"vote-{number}",
        has_own_id=bool(own),
        reward=reward,
        value=reward,
        comment=f"said {number}",
        source=FeedbackSource.model_validate({"type": source}),
        received_at=at + number / 1000,
        **target,
    )


bodies = st.tuples(
    targets,
    st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0, None]),
    st.sampled_from(["human", "code", "judge"]),
    st.sampled_from([1_000.6, 1_001.6, 2_000.0]),
    st.sampled_from([0, 0, 0, 1, 2]),
)


def apply(store: Store, record: Record) -> None:
    if isinstance(record, Transition):
        store.add_transition(record)
    elif isinstance(record, Retraction):
        store.retract(record)
    else:
        store.add_feedback(record)


def outcome(store: Store, redis: Any) -> dict[str, Any]:
    """Close and score everything, and say what came out."""
    found: dict[str, Any] = {}
    for name in TRAJECTORIES:
        ref = TrajectoryRef("default", name)
        store.close(ref)
        SCORER.score(store, ref)
        trajectory = store.trajectory(ref)
        assert trajectory is not None
        votes = redis.hgetall(keys.feedback_of("default", name))
        found[name] = (trajectory.reward, trajectory.rewards, votes)
    found["trainable"] = sorted(map(str, store.trainable("policy", 99)))
    return found


class AnyOrderOfVotes(RuleBasedStateMachine):
    """Delivers a fixed set of records in an order of hypothesis' choosing."""

    server: ClassVar[RedisSettings]

    @initialize(
        said=st.lists(bodies, max_size=8),
        taken_back=st.lists(st.integers(0, 9), max_size=3),
    )
    def begin(self, said: list[Any], taken_back: list[int]) -> None:
        self.redis = connect(self.server)
        self.redis.flushall()
        self.store = Store(self.redis)
        votes = [build(number, *body) for number, body in enumerate(said)]
        retracted = {votes[pick % len(votes)].id for pick in taken_back} if votes else set()
        retractions = [
            Retraction(feedback_id=name, received_at=3_000.0) for name in sorted(retracted)
        ]
        self.records: list[Record] = [*transitions, *votes, *retractions]
        self.left = list(self.records)
        self.seen: list[Record] = []
        self.expired: set[str] = set()
        self.claimed: set[str] = set()

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

    @rule(is_late=st.booleans())
    def expire(self, is_late: bool) -> None:
        waiting = {name.decode() for name in self.redis.zrange(keys.pending("default"), 0, -1)}
        now = time.time() + (keys.PENDING_TTL_SECONDS + 1 if is_late else 0)
        assert self.store.expire_pending(now) == (len(waiting) if is_late else 0)
        if is_late:
            self.expired |= waiting

    @rule()
    def claim(self) -> None:
        self.store.close_idle(1e9)
        for name in TRAJECTORIES:
            SCORER.score(self.store, TrajectoryRef("default", name))
        refs = self.store.trainable("policy", 99)
        self.store.mark_used("policy", refs)
        self.claimed |= set(map(str, refs))

    @invariant()
    def what_was_used_is_offered_no_more(self) -> None:
        if hasattr(self, "redis"):
            assert not self.claimed & set(map(str, self.store.trainable("policy", 99)))

    @invariant()
    def an_id_has_one_effect(self) -> None:
        if not hasattr(self, "redis"):
            return
        places: list[bytes] = []
        for name in TRAJECTORIES:
            places += self.redis.hkeys(keys.feedback_of("default", name))
        assert len(places) == len(set(places))
        assert not self.expired & {place.decode() for place in places}

    @invariant()
    def what_was_taken_back_is_nowhere(self) -> None:
        if not hasattr(self, "redis"):
            return
        gone = [record for record in self.seen if isinstance(record, Retraction)]
        for item in self.store.items("default", [record.feedback_id for record in gone]):
            assert item.status == "retracted"
            assert item.vote is None or item.vote.value is item.vote.comment is None
            if item.ref is not None:
                kept = self.redis.hget(keys.feedback_of("default", item.ref.id), item.id)
                assert Feedback.from_json(kept).value is None

    def teardown(self) -> None:
        if not hasattr(self, "redis"):
            return
        for record in self.left:
            apply(self.store, record)
        leaks, found = key_leaks(self.redis), outcome(self.store, self.redis)
        self.redis.flushall()
        plain = Store(self.redis)
        for record in self.records:
            if not (isinstance(record, Feedback) and record.id in self.expired):
                apply(plain, record)
        plain.mark_used("policy", map(TrajectoryRef.parse, self.claimed))
        assert found == outcome(plain, self.redis)
        assert leaks == []
        self.redis.close()


def test_any_order_of_votes_has_the_same_outcome(redis_settings: RedisSettings) -> None:
    AnyOrderOfVotes.server = redis_settings
    often = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(AnyOrderOfVotes, settings=often)  # type: ignore[no-untyped-call]
