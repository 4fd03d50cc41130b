"""Baselines: by hand, unbiased where they claim to be, and each one's promise under offsets."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages, advantages_of
from trainer.advantages.baseline import (
    Baseline,
    Comparison,
    Prior,
    baselines,
    comparison,
    groups_of,
    subtract_baseline,
)
from trajectories.settings import TrainerSettings

A, B = ("default", None, "a"), ("default", None, "b")
REWARDS = st.lists(st.tuples(st.floats(-1, 1), st.sampled_from("ab")), min_size=2, max_size=12)


def against(way: Baseline, keys: Mapping[str, tuple[str, None, str]], k: float) -> Comparison:
    return Comparison(way, keys, k, priors={A: Prior(0.5, 2.0)})


def test_a_prompt_seen_once_is_held_against_what_earlier_rounds_saw_of_it() -> None:
    found = baselines({"x": 1.0, "y": -1.0}, against("tracker", {"x": A, "y": B}, 4.0))
    assert found == {"x": 0.5, "y": 1.0}, "what the tracker does not know is left to the batch"


def test_many_of_this_round_outweigh_what_earlier_rounds_saw() -> None:
    keys = dict.fromkeys("xyz", A)
    found = baselines({"x": 1.0, "y": 0.0, "z": -1.0}, against("tracker", keys, 4.0))
    assert found["x"] == pytest.approx((0.0 - 1.0 + 2 * 0.5) / (2 + 2))


def test_only_the_tracker_reads_earlier_rounds() -> None:
    keys = dict.fromkeys("xy", A)
    rewards = {"x": 1.0, "y": 0.0}
    for way in ("leave_one_out", "batch", "none"):
        assert baselines(rewards, against(way, keys, 1.0)) == baselines(
            rewards, Comparison(way, keys, 1.0)
        )


def test_batch_is_one_mean_and_none_is_nothing() -> None:
    rewards, keys = {"x": 1.0, "y": 0.0}, {"x": A, "y": B}
    assert baselines(rewards, Comparison("batch", keys)) == {"x": 0.5, "y": 0.5}
    assert subtract_baseline(rewards, Comparison("none", keys)) == rewards
    assert baselines({}, Comparison("batch", {})) == {}


def test_a_group_is_the_same_first_prompt_under_one_version() -> None:
    samples = [
        a_sample("a", 1.0, anchor="x"),
        a_sample("a", 1.0, anchor="later", step=1, id="a/1"),
        a_sample("b", 0.0, anchor="x"),
        a_sample("c", 0.0, anchor="x", version=1),
        a_sample("d", 0.5, prompt_token_ids=(1, 2, 3)),
        a_sample("e", 0.5, prompt_token_ids=(12, 3)),
    ]
    groups = groups_of(samples)
    assert groups["a"] == groups["b"]
    assert len({groups[name] for name in "abcde"}) == 4


def test_those_alone_fall_back_to_their_task() -> None:
    samples = [a_sample("a", 1.0, anchor="x"), a_sample("b", 0.0, anchor="x")]
    samples += [a_sample("c", 0.5, anchor="alone")]
    rewards = {sample.part: sample.reward for sample in samples}
    found = baselines(rewards, comparison(samples, "group", shrinkage=0.0))
    assert found == {"a": 0.0, "b": 1.0, "c": 0.5}


def test_choices_of_one_call_are_one_trajectory_of_a_group() -> None:
    twice = [a_sample("a", 1.0, anchor="x", id=f"a/{choice}") for choice in range(3)]
    samples = [*twice, a_sample("b", 0.0, anchor="x"), a_sample("c", 0.0, anchor="x")]
    values = advantages(samples, shrinkage=0.0, negative_weight=1.0, baseline="group")
    assert values == pytest.approx([1.0, 1.0, 1.0, -0.5, -0.5])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_a_group_sums_to_zero(rewards: list[float]) -> None:
    samples = [a_sample(f"t{n}", reward, anchor="x") for n, reward in enumerate(rewards)]
    known = {sample.part: sample.reward for sample in samples}
    assert sum(subtract_baseline(known, comparison(samples, "group")).values()) == pytest.approx(
        0, abs=1e-9
    )


@given(REWARDS, st.integers(0, 11), st.floats(-1, 1))
def test_no_reward_is_in_its_own_baseline(
    shapes: list[tuple[float, str]], place: int, other: float
) -> None:
    """Which is what keeps the gradient unbiased; the batch mean breaks it, by 1/n."""
    samples = [a_sample(f"t{n}", r, task=task, anchor=task) for n, (r, task) in enumerate(shapes)]
    name = samples[place % len(samples)].part
    rewards = {sample.part: sample.reward for sample in samples}
    for way in ("leave_one_out", "tracker", "group"):
        held = comparison(samples, way, shrinkage=1.0, priors={A: Prior(0.5, 2.0)})
        before = baselines(rewards, held)[name]
        after = baselines({**rewards, name: other}, held)[name]
        assert after == pytest.approx(before, abs=1e-9)


def test_the_mean_of_reward_times_score_is_the_true_gradient() -> None:
    """A policy of one number: P(good) = p; the gradient of its mean reward is 2 p (1 - p)."""
    chance, p, total, rounds = random.Random(2), 0.3, 0.0, 4000
    for _ in range(rounds):
        good = [chance.random() < p for _ in range(4)]
        rewards = {f"t{n}": 1.0 if is_good else -1.0 for n, is_good in enumerate(good)}
        keys = {name: A if n < 3 else B for n, name in enumerate(rewards)}
        centred = subtract_baseline(rewards, Comparison("leave_one_out", keys, 1.0))
        scores = [(1 - p) if is_good else -p for is_good in good]
        total += sum(a * s for a, s in zip(centred.values(), scores, strict=True)) / 4
    assert total / rounds == pytest.approx(2 * p * (1 - p), abs=0.02)


OFFSETS = st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3)


@given(OFFSETS)
def test_offsets_of_tasks_leave_the_default_alone_and_move_the_batch_mean(
    offsets: list[float],
) -> None:
    plain, moved = [], []
    for n in range(24):
        reward = 0.5 if n % 4 == 0 else -0.5
        task = n % 3
        plain.append(a_sample(f"t{n}", reward, task=str(task)))
        moved.append(a_sample(f"t{n}", reward + offsets[task], task=str(task)))

    def values(samples: list[object], way: Baseline) -> list[float]:
        return advantages(samples, shrinkage=0.0, negative_weight=1.0, baseline=way)  # type: ignore[arg-type]

    assert values(moved, "leave_one_out") == pytest.approx(values(plain, "leave_one_out"))
    if max(offsets) - min(offsets) > 0.1:
        assert values(moved, "batch") != pytest.approx(values(plain, "batch"), abs=1e-3)


def test_the_settings_choose_the_baseline() -> None:
    samples = [a_sample("a", 1.0, task="a"), a_sample("b", 1.0, task="b")]
    assert advantages_of(samples, TrainerSettings()) == [0.0, 0.0]
    assert advantages_of(samples, TrainerSettings(baseline="none")) == [1.0, 1.0]
