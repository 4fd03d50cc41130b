"""Calibration: never against the judge's own order, and nearer to people than before."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.answering import Answer, AnsweringServer, completion
from tests.workers.records import vote
from tests.workers.verdicts.conftest import Court
from trajectories import keys
from workers.verdicts.calibration import Calibration, fit, interpolate, isotonic
from workers.verdicts.jobs import calibrate

rewards = st.floats(-1, 1)
pairs = st.lists(st.tuples(rewards, rewards), min_size=1, max_size=60)


@given(pairs, st.lists(rewards, min_size=2))
def test_more_is_never_worth_less(seen: list[tuple[float, float]], scores: list[float]) -> None:
    knots = isotonic(seen)
    mapped = [interpolate(knots, score) for score in sorted(scores)]
    assert mapped == sorted(mapped)
    assert all(-1 <= value <= 1 for value in mapped)


@given(pairs)
def test_the_fit_is_the_nearest_of_all_non_decreasing_maps(
    seen: list[tuple[float, float]],
) -> None:
    knots = isotonic(seen)

    def error(of: Callable[[float], float]) -> float:
        return sum((of(score) - human) ** 2 for score, human in seen)

    best = error(lambda score: interpolate(knots, score))
    for other in (lambda s: s, lambda s: 0.0, lambda s: s**3, lambda s: min(1.0, s + 0.3)):
        assert best <= error(other) + 1e-9


@given(pairs, st.randoms())
def test_the_fit_does_not_depend_on_order(seen: list[tuple[float, float]], random: Any) -> None:
    knots = isotonic(seen)
    random.shuffle(seen)
    assert isotonic(seen) == knots


def test_a_fit_worked_by_hand() -> None:
    seen = [(-1.0, -1.0), (0.0, 0.5), (0.5, 0.0), (1.0, 1.0)]
    assert isotonic(seen) == ((-1.0, -1.0), (0.0, 0.25), (0.5, 0.25), (1.0, 1.0))
    knots = isotonic(seen)
    assert interpolate(knots, -0.5) == pytest.approx(-0.375)
    assert interpolate(knots, 0.25) == 0.25


def test_with_too_few_pairs_there_is_no_calibration() -> None:
    assert fit([(0.0, 1.0)] * 29, version=1, at=0.0) is None
    fitted = fit([(0.0, 1.0)] * 30, version=1, at=0.0)
    assert fitted is not None
    assert (fitted.apply(-1.0), fitted.error_before, fitted.error_after) == (1.0, 1.0, 0.0)


def test_a_judge_is_calibrated_on_what_people_said_and_its_next_verdict_says_so(
    court: Callable[..., Court], serve: Callable[[Answer], AnsweringServer]
) -> None:
    scores = iter([9] * 20 + [5] * 20 + [9])
    server = serve(lambda asked: completion({"reason": "", "score": next(scores)}))
    here = court(judges={"j": {"model": "m", "url": server.url, "cache_days": 0}})
    for number in range(40):
        ref = here.hear(f"traj_{number:02}")
        human = 0.5 if number < 20 else -1.0  # the judge is too generous
        if number % 2:
            here.store.add_feedback(vote(human, trajectory=ref.id))
        else:
            here.store.add_feedback(vote(human, response=f"chatcmpl-{ref.id}-1"))
    here.decide()
    fitted = calibrate(here.store, here.redis, "j", "default")
    assert fitted is not None
    assert (fitted.version, fitted.pairs) == (1, 40)
    assert fitted.knots == ((0.0, -1.0), (0.8, 0.5))
    assert fitted.agreement == 0.5
    assert fitted.error_after == pytest.approx(0.0)
    assert fitted.error_before == pytest.approx(0.65)
    raw = here.redis.get(keys.calibration("default", "j"))
    assert Calibration.from_json(raw) == fitted
    late = here.hear("traj_late")
    here.decide()
    assert here.reward(late) == 0.5
    found = here.store.votes_of(late)
    assert found[0].metadata["raw"] == 0.8
    assert found[0].metadata["calibration"] == 1
    again = calibrate(here.store, here.redis, "j", "default")
    assert again is not None
    assert again.version == 2
    assert calibrate(here.store, here.redis, "j", "other") is None
