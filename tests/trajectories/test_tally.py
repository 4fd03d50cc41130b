"""Tallies: what each trajectory counts for, and totals that stay right whatever is recomputed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_trajectory, a_transition
from trajectories.account import account_of
from trajectories.composition import Outcome, compose
from trajectories.connection import Redis
from trajectories.model import Feedback, Reward, Trajectory
from trajectories.store import Store, TrajectoryRef
from trajectories.tally import (
    MAX_NAMES,
    OTHER,
    admit,
    average,
    difference,
    overview,
    tally_of,
)

REF = TrajectoryRef("default", "t1")


def reward(name: str, value: float, source: str = "feedback:human:ann") -> Reward:
    return Reward(id=f"{name}{source}", trajectory_id="t1", name=name, source=source, value=value)


def tally(trajectory: Trajectory, *rewards: Reward) -> dict[str, float]:
    outcome = compose(rewards)
    return tally_of(trajectory, [], rewards, final=outcome.final, is_labelled=outcome.is_labelled)


def asked(is_asked: bool) -> Trajectory:
    made = a_transition("t1", agent="support", ask=0.1, is_asked=is_asked)
    return a_trajectory("t1", transitions=(made,))


def test_silence_has_no_average_and_never_a_zero() -> None:
    shown = overview(tally(asked(is_asked=False)))
    assert shown["rewards"] == {}
    assert shown["agents"]["support"]["average_reward"] is None
    assert average({}) is None
    assert shown["coverage"]["labelled"] == 0.0
    assert overview({})["coverage"]["labelled"] is None


def test_averages_by_reward_name_and_by_agent() -> None:
    shown = overview(tally(asked(is_asked=True), reward("tone", 0.5), reward("tone", 1.0, "air:x")))
    assert shown["rewards"] == {"tone": {"mean": 0.75, "count": 2}}
    assert shown["agents"]["support"]["trajectories"] == 1
    assert shown["coverage"]["air"] == 1.0


def test_how_many_answer_when_they_are_asked_and_when_not() -> None:
    totals: dict[str, float] = {}
    silent, spoken = asked(is_asked=False), asked(is_asked=True)
    for made in (tally(silent), tally(silent, reward("r", 1.0)), tally(spoken, reward("r", 1.0))):
        for field, value in made.items():
            totals[field] = totals.get(field, 0.0) + value
    found = overview(totals)["agents"]["support"]["coverage"]
    assert (found["labelled_when_asked"], found["labelled_unasked"]) == (1.0, 0.5)
    assert found["asked"] == pytest.approx(1 / 3)


def test_a_judges_verdict_is_told_from_a_persons() -> None:
    judged = overview(tally(asked(is_asked=False), reward("q", 1.0, "feedback:judge:quality")))
    assert judged["coverage"]["judged"] == 1.0
    assert overview(tally(asked(is_asked=False), reward("q", 1.0)))["coverage"]["judged"] == 0.0


def test_names_with_separators_in_them_are_names() -> None:
    odd = a_trajectory("t1", transitions=(a_transition("t1", agent="a|b:c"),))
    assert overview(tally(odd))["agents"]["a|b:c"]["trajectories"] == 1


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9).map(float))))
def test_adding_differences_gives_the_last_tally(steps: list[dict[str, float]]) -> None:
    totals: dict[str, float] = {}
    before: dict[str, float] = {}
    for after in steps:
        for field, value in difference(after, before).items():
            totals[field] = totals.get(field, 0.0) + value
        before = after
    assert {name: value for name, value in totals.items() if value} == {
        name: value for name, value in before.items() if value
    }


def test_names_that_are_not_admitted_add_up_as_other() -> None:
    found = admit(
        {"agent:a|labelled": 1, "agent:b|labelled": 1, "all|labelled": 1},
        lambda _, name: name if name == "a" else OTHER,
    )
    assert found == {"agent:a|labelled": 1, "agent:other|labelled": 1, "all|labelled": 1}


# -- in the store ---------------------------------------------------------------------


def score(store: Store, ref: TrajectoryRef, *rewards: Reward, **windows: Any) -> None:
    found = store.scorable(ref)
    assert found is not None
    outcome: Outcome = compose(rewards)
    account = account_of(
        found.trajectory, found.feedback, rewards, outcome, windows=windows, now=5000.0
    )
    assert store.put_rewards(
        ref,
        rewards=rewards,
        final=outcome.final,
        is_labelled=outcome.is_labelled,
        revision=found.revision,
        account=account,
    )


def test_what_is_scored_again_counts_once(redis: Redis) -> None:
    store = Store(redis)
    store.add_transition(a_transition("t1", agent="support"))
    score(store, REF, reward("tone", 0.5))
    score(store, REF, reward("tone", -0.5), reward("solved", 1.0))
    shown = overview(store.totals("default"))
    assert shown["rewards"] == {
        "solved": {"mean": 1.0, "count": 1},
        "tone": {"mean": -0.5, "count": 1},
    }
    assert shown["agents"]["support"]["trajectories"] == 1
    score(store, REF)
    assert overview(store.totals("default"))["rewards"] == {}
    assert store.totals("another") == {}


def test_the_number_of_names_is_bounded_whatever_clients_send(redis: Redis) -> None:
    store = Store(redis)
    for number in range(MAX_NAMES["agent"] + 6):
        name = f"t{number}"
        store.add_transition(a_transition(name, agent=f"a{number}"))
        # Two workers take turns: each knows what the other admitted.
        score(store if number % 2 else Store(redis), TrajectoryRef("default", name))
    agents = overview(store.totals("default"))["agents"]
    assert len(agents) == MAX_NAMES["agent"] + 1
    assert agents[OTHER]["trajectories"] == 6


def test_a_label_that_is_waited_for_keeps_a_trajectory_from_the_trainer(redis: Redis) -> None:
    store = Store(redis)
    store.add_transition(a_transition("t1", started_at=4e9))
    store.close(REF)
    score(store, REF, reward("tone", 1.0), solved=50.0)
    assert store.count_trainable("policy") == 0
    found = store.trajectory(REF)
    assert found is not None
    assert (found.labels, found.is_closed) == ("pending", True)
    assert store.end_windows(4e9) == 0
    assert store.end_windows(4e9 + 51) == 1
    assert store.is_waiting_for_scoring(REF), "it is looked at again when the window is over"
    assert store.end_windows(4e9 + 51) == 0


def test_a_late_vote_is_counted_once_and_opens_nothing_again(redis: Redis) -> None:
    store = Store(redis)
    store.add_transition(a_transition("t1"))
    store.close(REF)
    score(store, REF)
    late = Feedback(id="f", identity="f", trajectory_id="t1", reward=1.0, received_at=4e9)
    store.add_feedback(late)
    for _ in range(2):
        score(store, REF, reward("reward", 1.0))
    found = store.trajectory(REF)
    assert found is not None
    assert (found.labels, found.is_closed, found.reward) == ("late", True, 1.0)
    assert store.counts()["late"] == 1
    assert store.count_trainable("policy") == 1


def test_two_trainers_each_use_a_trajectory_of_both_policies_once(redis: Redis) -> None:
    store = Store(redis)
    store.add_transition(a_transition("t1", number=0, agent="planner"))
    store.add_transition(a_transition("t1", number=1, agent="writer", policy="other"))
    store.close(REF)
    score(store, REF, reward("reward", 1.0))
    assert store.trainable("policy", 9) == store.trainable("other", 9) == [REF]
    store.mark_used("policy", [REF])
    score(store, REF, reward("reward", -1.0))
    assert store.trainable("policy", 9) == [], "used is used, whatever is said afterwards"
    assert store.trainable("other", 9) == [REF]
    store.mark_used("other", [REF])
    assert store.trainable("other", 9) == []
