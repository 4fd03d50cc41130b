"""Credit: four ways from a trajectory's reward to its calls, checked by hand and in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages, scale_of
from trainer.advantages.baseline import comparison
from trainer.advantages.credit import Spread, return_to_go, spread, verdicts
from trainer.batch.samples import Sample


def calls(trajectory: str, reward: float, count: int, **changes: Any) -> list[Sample]:
    """One trajectory of `count` calls; `votes` and `air` are by call."""
    votes: dict[int, float] = changes.pop("votes", {})
    air: dict[int, float] = changes.pop("air", {})
    anchors = changes.pop("anchors", [f"{trajectory}-{n}" for n in range(count)])
    return [
        a_sample(
            trajectory,
            reward,
            id=f"{trajectory}/{step}",
            step=step,
            calls_to_go=count - 1 - step,
            votes=tuple((at - step, value) for at, value in votes.items() if at >= step),
            air=tuple((at - step, value) for at, value in air.items() if at >= step),
            anchor=anchors[step],
            **changes,
        )
        for step in range(count)
    ]


def credit(samples: list[Sample], estimator: Any, discount: float = 1.0) -> list[float]:
    against = comparison(samples, shrinkage=0.0)
    return spread(samples, verdicts(samples), against, Spread(estimator, discount))


GOOD_AND_BAD = calls("a", 1.0, 3) + calls("b", -1.0, 2)  # baselines -1 and 1: credit 2 and -2


def test_identical_gives_every_call_the_whole() -> None:
    assert credit(GOOD_AND_BAD, "identical", 0.5) == [2, 2, 2, -2, -2]


def test_discounted_gives_late_calls_more() -> None:
    assert credit(GOOD_AND_BAD, "discounted", 0.5) == [0.5, 1, 2, -1, -2]


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 5)), min_size=1, max_size=8))
def test_discounted_by_nothing_is_identical(shapes: list[tuple[float, int]]) -> None:
    samples = [
        sample
        for n, (reward, count) in enumerate(shapes)
        for sample in calls(f"t{n}", reward, count)
    ]
    assert credit(samples, "discounted") == credit(samples, "identical")


def test_step_holds_a_fault_against_the_call_and_what_led_to_it_not_against_what_followed() -> None:
    samples = calls("a", 0.7, 3, outcome=1.0, air={1: -0.3}) + calls("b", -1.0, 1, outcome=-1.0)
    # Outcomes 1 and -1 are 2 and -2 over each other; the fault is -0.3 at its call, halved before.
    assert credit(samples, "step", 0.5) == pytest.approx([0.5 - 0.15, 1 - 0.3, 2.0, -2.0])


def test_step_takes_votes_on_calls_as_returns_to_go_against_those_of_other_trajectories() -> None:
    samples = calls("a", 0.0, 2, votes={0: 1.0, 1: -1.0}) + calls("b", 1.0, 1, votes={0: 1.0})
    # To go: a 1 - 0.5 = 0.5 and -1 (mean -0.25), b 1; each is held against the other's mean.
    assert credit(samples, "step", 0.5) == pytest.approx([0.5 - 1, -1 - 1, 1 + 0.25])


def test_step_says_nothing_of_calls_that_nobody_spoke_of() -> None:
    samples = calls("a", 1.0, 3, votes={0: 1.0}) + calls("b", -1.0, 1, votes={0: -1.0})
    assert credit(samples, "step") == [2.0, 0.0, 0.0, -2.0]


def test_stepgroup_compares_what_followed_from_the_same_state() -> None:
    samples = (
        calls("a", 1.0, 2, outcome=1.0, anchors=["start", "left"])
        + calls("b", -1.0, 2, outcome=-1.0, anchors=["start", "right"])
        + calls("c", -1.0, 1, outcome=-1.0, anchors=["left"])
    )
    # Over trajectories: 1 - (-1) = 2, -1 - 0 = -1, -1. Over "start": g - (-g) = 1 and -1 (g = 0.5);
    # over "left": 1 - (-1) = 2 for a, and -2 for c.
    assert credit(samples, "stepgroup", 0.5) == pytest.approx([2 + 1, 2 + 2, -1 - 1, -1, -1 - 2])


def test_a_trajectory_that_meets_a_state_twice_counts_once_in_its_group() -> None:
    samples = (
        calls("a", 1.0, 1, outcome=1.0, anchors=["x"])
        + calls("b", 0.0, 1, outcome=0.0, anchors=["x"])
        + calls("c", -1.0, 3, outcome=-1.0, anchors=["x", "x", "x"])
    )
    group_of_a = credit(samples, "stepgroup")[0] - credit(samples, "identical")[0]
    assert group_of_a == pytest.approx(1 - (0 - 1) / 2)


def test_what_nobody_voted_on_is_in_no_group() -> None:
    silent = calls("s", -0.3, 1, is_labelled=False, air={0: -0.3}, anchors=["x"])
    samples = silent + calls("a", 1.0, 1, outcome=1.0, anchors=["x"])
    assert return_to_go(silent[0], 0.9) is None
    assert credit(samples, "stepgroup") == credit(samples, "identical")


rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-1, 1)),
        st.lists(st.tuples(st.floats(-1, 0), st.sampled_from("xyz")), min_size=1, max_size=4),
    ),
    min_size=2,
    max_size=7,
)


@given(rows, st.floats(0.1, 1))
def test_step_and_stepgroup_equal_a_float64_reference(
    shapes: list[tuple[float | None, list[tuple[float, str]]]], discount: float
) -> None:
    samples: list[Sample] = []
    for n, (outcome, states) in enumerate(shapes):
        samples += calls(
            f"t{n}",
            outcome if outcome is not None else sum(value for value, _ in states),
            len(states),
            outcome=outcome,
            is_labelled=outcome is not None,
            air={step: value for step, (value, _) in enumerate(states)},
            anchors=[anchor for _, anchor in states],
        )
    outcomes = {n: outcome for n, (outcome, _) in enumerate(shapes) if outcome is not None}
    rewards, steps, groups = {}, [], []
    for n, (outcome, states) in enumerate(shapes):
        others = np.array([value for m, value in outcomes.items() if m != n], np.float64)
        centred = 0.0 if outcome is None or not len(others) else outcome - others.mean()
        rewards[n] = sum(v for v, _ in states) if outcome is None else centred
        air = np.array([value for value, _ in states], np.float64)
        for t in range(len(states)):
            powers = discount ** np.arange(len(states) - t, dtype=np.float64)
            steps.append(centred * powers[-1] + float(powers @ air[t:]))
            to_go = float(powers @ air[t:]) + (outcome or 0.0) * powers[-1]
            groups.append((n, states[t][1], None if outcome is None else to_go))
    assert credit(samples, "step", discount) == pytest.approx(steps, abs=1e-9)
    expected = []
    for n, anchor, to_go in groups:
        others = [
            np.mean([g for m, a, g in groups if m == other and a == anchor and g is not None])
            for other in {m for m, a, g in groups if a == anchor and g is not None} - {n}
        ]
        extra = 0.0 if to_go is None or not others else to_go - float(np.mean(others))
        expected.append(rewards[n] + extra)
    assert credit(samples, "stepgroup", discount) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("estimator", ["identical", "discounted", "step", "stepgroup"])
def test_a_long_trajectory_does_not_set_the_scale(estimator: Any) -> None:
    short = calls("a", 1.0, 1, outcome=1.0) + calls("b", -1.0, 1, outcome=-1.0)
    long = calls("a", 1.0, 1, outcome=1.0) + calls("b", -1.0, 9, outcome=-1.0)
    first = advantages(short, shrinkage=0.0, negative_weight=1.0, credit=estimator)[0]
    again = advantages(long, shrinkage=0.0, negative_weight=1.0, credit=estimator)[0]
    assert again == pytest.approx(first)


def test_the_scale_is_of_trajectories_each_once() -> None:
    samples = [s for n in range(8) for s in calls(f"a{n}", 1.0, 1) + calls(f"b{n}", -1.0, 2)]
    assert scale_of(samples, [3.0, 1.0, 1.0] * 8) == pytest.approx(((9 + 1) / 2) ** 0.5)


def test_a_few_labels_set_no_scale() -> None:
    samples = [sample for n in range(15) for sample in calls(f"t{n}", 1.0, 1)]
    assert scale_of(samples, [0.1] * 15) == 1.0


def test_two_agents_of_one_trajectory_are_two_parts() -> None:
    samples = [
        a_sample("t", 1.0, id="t/0", agent="planner"),
        a_sample("t", -1.0, id="t/1", agent="writer"),
        a_sample("u", 0.0, id="u/0", agent="planner"),
    ]
    assert set(verdicts(samples)) == {"t#planner", "t#writer", "u#planner"}
    planner, writer, _ = advantages(samples, shrinkage=0.0, negative_weight=1.0)
    assert writer < 0 < planner
