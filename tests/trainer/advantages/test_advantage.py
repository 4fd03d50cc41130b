"""Advantages: a long-lived baseline per task, each trajectory once, one scale per batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages
from trainer.advantages.baseline import Comparison, subtract_baseline
from trainer.advantages.credit import shuffle
from trainer.batch.samples import Sample

REWARDS = st.lists(st.floats(-1, 1), min_size=16, max_size=24)


def plain(samples: list[Sample], *, shrinkage: float = 4.0, weight: float = 1.0) -> list[float]:
    return advantages(samples, shrinkage=shrinkage, negative_weight=weight)


def test_the_baseline_of_a_task_leaves_the_trajectory_itself_out() -> None:
    keys = dict.fromkeys("abc", ("default", None, "greet"))
    against = Comparison("leave_one_out", keys, 0.0)
    centred = subtract_baseline({"a": 1.0, "b": 0.0, "c": 0.5}, against)
    assert centred == {"a": 0.75, "b": -0.75, "c": 0.0}


def test_a_task_seen_once_is_held_against_the_rest_of_the_batch() -> None:
    keys = {"a": ("default", None, "x"), "b": ("default", None, "y"), "c": ("default", None, "y")}
    against = Comparison("leave_one_out", keys, 4.0)
    centred = subtract_baseline({"a": 1.0, "b": 0.0, "c": 0.0}, against)
    assert centred["a"] == 1.0


def test_a_hard_task_is_not_punished_for_being_hard() -> None:
    easy = [a_sample(f"e{i}", 1.0 if i else 0.8, task="easy") for i in range(10)]
    hard = [a_sample(f"h{i}", -0.8 if i else -0.6, task="hard") for i in range(10)]
    values = plain(easy + hard, shrinkage=0.0)
    assert values[0] < 0 < values[10], "the best of the hard ones is good, the worst easy one bad"


@given(REWARDS, st.floats(-0.5, 0.5))
def test_shifting_every_reward_changes_nothing(rewards: list[float], shift: float) -> None:
    before = plain([a_sample(f"t{i}", r / 2) for i, r in enumerate(rewards)])
    after = plain([a_sample(f"t{i}", r / 2 + shift) for i, r in enumerate(rewards)])
    spread = max(rewards) - min(rewards)
    if spread > 1e-3:
        assert after == pytest.approx(before, abs=1e-4)


@given(REWARDS)
def test_the_batch_has_one_scale(rewards: list[float]) -> None:
    values = plain([a_sample(f"t{i}", reward) for i, reward in enumerate(rewards)])
    mean_square = sum(value**2 for value in values) / len(values)
    assert mean_square == pytest.approx(1.0) or set(values) == {0.0}


def test_equal_rewards_teach_nothing() -> None:
    assert plain([a_sample(f"t{i}", 1.0) for i in range(5)]) == [0.0] * 5


def test_a_trajectory_counts_once_however_many_calls_it_has() -> None:
    short = [a_sample("a", 1.0), a_sample("b", -1.0)]
    long = [*short, *(a_sample("b", -1.0, id=f"b/{i}") for i in range(9))]
    assert plain(long)[:2] == pytest.approx(plain(short))
    assert set(plain(long)[2:]) == {plain(short)[1]}


def test_negative_advantages_weigh_less() -> None:
    samples = [a_sample("a", 1.0), a_sample("b", -1.0)]
    good, bad = plain(samples, weight=0.25)
    assert bad == pytest.approx(-0.25 * good)


def test_a_fault_nobody_voted_on_is_never_praised_because_voters_complain() -> None:
    complaints = [a_sample(f"c{i}", 1.0 if i == 0 else -1.0) for i in range(5)]
    fault = a_sample("fault", -0.3, is_labelled=False)
    assert plain([*complaints, fault])[-1] < 0


def test_faults_do_not_move_the_baseline_of_the_votes() -> None:
    votes = [a_sample("a", 1.0), a_sample("b", -1.0)]
    faults = [a_sample(f"f{i}", -0.3, is_labelled=False) for i in range(6)]
    good, bad = plain([*votes, *faults])[:2]
    assert good == pytest.approx(-bad)


def test_shuffled_rewards_are_the_same_rewards_of_the_same_trajectories() -> None:
    samples = [
        a_sample(f"t{i}", i / 10, is_labelled=i % 2 == 0, outcome=i / 10, votes=((0, i / 20),))
        for i in range(10)
    ]
    shuffled = shuffle(samples, seed=1)
    assert sorted(sample.reward for sample in shuffled) == [i / 10 for i in range(10)]
    assert {(s.reward, s.is_labelled, s.outcome) for s in shuffled} == {
        (s.reward, s.is_labelled, s.outcome) for s in samples
    }
    assert sorted(s.votes for s in shuffled) == sorted(s.votes for s in samples)
    assert [s.id for s in shuffled] == [s.id for s in samples]
    assert [s.reward for s in shuffled] != [s.reward for s in samples]
    assert shuffle(samples, seed=1) == shuffled, "a resumed round shuffles alike"
