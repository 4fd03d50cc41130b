"""Rollouts in the store: stored, scored and offered, and in none of the users' figures."""

from typing import Any

from gateway.training_status import totals_of
from tests.workers.records import transition, vote
from trajectories.model import Transition
from trajectories.names import TEXT, text_digest
from trajectories.rollouts import Rollout
from trajectories.settings import RewardSettings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer
from workers.linker import Linker

LONG = "It will be sunny in Seoul for two days."
SCORER = Scorer.from_settings(RewardSettings())


def rollout(of: Transition, number: int = 0, content: str = LONG) -> Transition:
    """A sibling of `of`, as a gateway records it."""
    name = Rollout(of.tenant, of.id, number).trajectory_id
    update = {"rollout": of.id, "session_source": "rollout", "key": of.key}
    made = transition(trajectory=name, content=content)
    return made.model_copy(update=update)


def scored(store: Store, ref: TrajectoryRef) -> None:
    store.close(ref)
    SCORER.score(store, ref)


def test_siblings_are_offered_to_the_trainer_and_counted_apart(redis: Any) -> None:
    store = Store(redis)
    linker = Linker(store)
    users = transition(content="Rain.")
    linker.add(users)
    store.add_feedback(vote(1.0, trajectory="traj_a", source_id="ann"))
    ref = TrajectoryRef("default", "traj_a")
    scored(store, ref)
    before, totals = store.counts(), totals_of(store.totals("default"))

    sibling = rollout(users)
    linker.add(sibling)
    own = TrajectoryRef("default", sibling.trajectory_id)
    store.add_feedback(vote(-1.0, trajectory=own.id, source="judge", source_id="grader"))
    scored(store, own)

    after = store.counts()
    assert after["rollouts"] == 1
    moved = {name for name in after if after[name] != before[name]} - {"rollouts", "feedback"}
    assert moved == set()
    assert totals_of(store.totals("default")) == {**totals, "rollouts": 1}
    assert set(store.trainable("policy", 10)) == {ref, own}
    assert store.count_labellers("policy") == 1
    found = store.trajectory(own)
    assert found is not None
    assert found.rollout == users.id
    assert found.reward == -1.0


def test_a_users_call_is_never_linked_to_a_sibling(redis: Any) -> None:
    store = Store(redis)
    linker = Linker(store)
    first = transition(trajectory="traj_u", content="Rain.")
    linker.add(first)
    linker.add(rollout(first))
    asked = first.request["messages"]
    later = transition(
        1,
        trajectory="traj_v",
        content="Yes.",
        messages=[*asked, {"role": "assistant", "content": LONG}, {"role": "user", "content": "?"}],
    )
    linker.add(later)
    assert store.trajectory_of("default", later.id) == TrajectoryRef("default", "traj_v")


def test_a_vote_by_the_text_or_the_task_finds_the_users_answer(redis: Any) -> None:
    store = Store(redis)
    linker = Linker(store)
    users = transition(trajectory="traj_u", content=LONG)
    linker.add(users)
    linker.add(rollout(users))
    named = vote(1.0, trajectory="x", at=2_000.0).model_copy(
        update={"trajectory_id": None, "named": f"{TEXT}:{text_digest(LONG)}"}
    )
    assert store.add_feedback(named) == TrajectoryRef("default", "traj_u")


def test_a_sibling_that_nobody_judged_has_no_reward(redis: Any) -> None:
    store = Store(redis)
    sibling = rollout(transition())
    Linker(store).add(sibling)
    ref = TrajectoryRef("default", sibling.trajectory_id)
    scored(store, ref)
    found = store.trajectory(ref)
    assert found is not None
    assert found.reward is None  # nobody judged it: missing, and not 0
    assert store.trainable("policy", 10) == []
