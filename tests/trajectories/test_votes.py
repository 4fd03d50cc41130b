"""Votes in the store: where they wait, what they may mean, and how they leave."""

import time
from typing import Any

import pytest

from tests.workers.records import transition, vote
from trajectories import keys
from trajectories.model import Feedback, Outcome, Retraction, Transition
from trajectories.names import text_digest
from trajectories.standing import standing_votes
from trajectories.store import Cursor, Linkage, Place, Store, TrajectoryRef

REF = TrajectoryRef("default", "traj_a")
ONE = "chatcmpl-traj_a-0"


@pytest.fixture
def store(redis: Any) -> Store:
    return Store(redis)


def named(name: str, reward: float = 1.0, at: float = 2_000.0) -> Feedback:
    said = vote(reward, response="unused", at=at)
    return said.model_copy(
        update={"response_id": None, "named": name, "id": f"fb_{name[-9:]}_{at}"}
    )


def standing(store: Store, ref: TrajectoryRef = REF) -> list[tuple[str | None, float | None]]:
    scorable = store.scorable(ref)
    assert scorable is not None
    found = standing_votes(scorable.trajectory.transitions, scorable.feedback)
    return [(entry.transition_id, entry.reward) for entry in found]


def status(store: Store, vote_id: str) -> str:
    item = store.item("default", vote_id)
    assert item is not None
    return item.status


def attempts() -> list[Transition]:
    """A call that was cut off and the retry that took its place, with the same answer."""
    cut = transition(0, content="It is sunny.", outcome=Outcome.DISCONNECTED)
    return [cut, transition(1, content="It is sunny.").model_copy(update={"attempt": 1})]


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
)
def test_a_vote_by_text_is_the_retrys_and_one_by_id_stays_with_its_attempt(
    store: Store, order: tuple[int, ...]
) -> None:
    by_text = named(f"text:{text_digest('It is sunny.')}")
    steps: list[Any] = [*attempts(), by_text]
    for step in order:
        if isinstance(steps[step], Transition):
            store.add_transition(steps[step], Linkage(call="one call"))
        else:
            store.add_feedback(steps[step])
    store.add_feedback(vote(-1.0, response=ONE))
    assert standing(store) == [("tr_traj_a_1", 1.0)]
    assert status(store, by_text.id) == "attached"


def test_a_text_that_is_said_again_before_the_vote_leaves_it_open(store: Store) -> None:
    by_text = named(f"text:{text_digest('Yes, done.')}", at=1_000.5)
    late = named(f"text:{text_digest('Yes, done.')}", at=1_001.5)
    store.add_transition(transition(0, content="Yes, done."))
    for entry in (by_text, late):
        assert store.add_feedback(entry) == REF
    store.add_transition(transition(1, trajectory="traj_b", content=" Yes, done.\n"))
    # It began before the second vote and after the first.
    assert (status(store, by_text.id), status(store, late.id)) == ("attached", "pending")
    assert standing(store) == [("tr_traj_a_0", 1.0)]


def test_a_second_answer_that_comes_while_a_vote_is_joined_is_seen(redis: Any) -> None:
    class Overtaken(Store):
        is_overtaken = False

        def places(self, vote: Feedback) -> list[Place]:
            found = super().places(vote)
            if not self.is_overtaken:
                self.is_overtaken = True
                # By another dispatcher, which finds no vote that waits.
                Store(redis).add_transition(transition(0, trajectory="traj_b", content="Done."))
            return found

    store = Overtaken(redis)
    store.add_transition(transition(0, content="Done."))
    by_text = named(f"text:{text_digest('Done.')}")
    assert store.add_feedback(by_text) is None
    assert (status(store, by_text.id), standing(store)) == ("pending", [])


def test_a_retraction_before_its_vote_leaves_nothing_of_it(store: Store) -> None:
    said = vote(1.0, response=ONE).model_copy(update={"comment": "private"})
    store.retract(Retraction(feedback_id=said.id, received_at=5.0))
    assert status(store, said.id) == "retracted"
    store.add_transition(transition(0))
    store.add_feedback(said)
    assert standing(store) == []
    kept = store.feedback("default", said.id)
    assert kept is not None
    assert (kept.reward, kept.comment, kept.retracted_at) == (None, None, 5.0)
    assert kept.received_at == said.received_at


def test_what_expired_stays_so(store: Store) -> None:
    said = vote(1.0, response=ONE)
    store.add_feedback(said)
    assert store.count_pending("default") == 1
    assert store.expire_pending(time.time() + keys.PENDING_TTL_SECONDS + 1) == 1
    store.add_transition(transition(0))
    store.add_feedback(said)
    assert (status(store, said.id), standing(store)) == ("expired", [])
    assert store.counts()["expired"] == 1


def test_a_vote_on_what_expired_waits_and_expires(store: Store, redis: Any) -> None:
    step = transition(0, content="Sunny.")
    store.add_transition(step)
    said = vote(0.5, response=step.response_id)
    store.add_feedback(said)
    redis.delete(*redis.keys("trajectory:*"))  # the index leads there for up to a week more
    late = vote(1.0, response=step.response_id, at=3_000.0)
    assert store.add_feedback(late) is None
    assert redis.zscore(keys.pending("default"), late.id) is not None
    assert store.add_feedback(said) is None
    assert status(store, said.id) == "attached"
    assert not redis.keys("trajectory:*")
    assert store.expire_pending(time.time() + keys.PENDING_TTL_SECONDS + 1) == 1
    assert status(store, late.id) == "expired"


def test_a_vote_that_outlives_what_it_was_found_by_is_still_taken_back(
    store: Store, redis: Any
) -> None:
    by_text = named(f"text:{text_digest('It rains.')}")
    store.add_transition(transition(0, content="It rains."))
    store.add_feedback(by_text)
    for key in redis.keys("index:*"):
        redis.delete(key)
    store.retract(Retraction(feedback_id=by_text.id, received_at=5.0))
    assert standing(store) == []
    assert status(store, by_text.id) == "retracted"


def test_the_versions_that_learned_from_a_trajectory_are_known(store: Store) -> None:
    store.note_trained("policy", 3, [REF])
    store.note_trained("policy", 3, [REF])
    store.note_trained("policy", 4, [TrajectoryRef("default", "traj_b")])
    assert store.used_by("policy", [0, 3, 4], REF) == [3]


def test_votes_of_one_moment_are_listed_once_each(store: Store) -> None:
    for number in range(450):
        store.add_feedback(vote(1.0, response="nowhere", source_id=str(number), at=2e9))
    found: list[Cursor] = []
    cursor = None
    while places := store.votes_before("default", cursor, 100):
        found += places
        cursor = Cursor.parse(str(places[-1]))
    assert len(found) == len({place.id for place in found}) == 450
    assert found == sorted(found, reverse=True)


def test_forgotten_votes_are_gone(store: Store, redis: Any) -> None:
    store.add_transition(transition(0))
    for entry in (vote(1.0, response=ONE), vote(1.0, trajectory="traj_a")):
        store.add_feedback(entry)
    assert store.erase_votes(REF) == 2
    assert store.erase_votes(REF) == 0
    assert standing(store) == []
    assert store.votes_before("default", None, 9) == []
    assert redis.keys("feedback:*") == []


def test_a_mind_that_changes_all_the_time_takes_bounded_room(
    store: Store, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajectories.store.votes.MANY_VOTES", 10)
    store.add_transition(transition(0))
    store.add_feedback(vote(0.5, response=ONE, name="tone", at=1.0))
    for number in range(40):
        store.add_feedback(vote((-1.0) ** number, response=ONE, at=2_000.0 + number))
        assert redis.hlen(keys.feedback_of("default", "traj_a")) <= 11
    found = standing(store)
    assert sorted(reward for _, reward in found if reward is not None) == [-1.0, 0.5]
