"""What a value is worth: every form, every scale, and never out of bounds."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trajectories.settings import MetricSettings
from trajectories.worth import worth

MINUTES = MetricSettings(low=0, high=10, optimize="min")
MOOD = MetricSettings(values={"great": 1.0, "awful": -0.5})


@pytest.mark.parametrize(
    ("form", "value", "metric", "reward"),
    [
        ("value", True, None, 1.0),
        ("value", False, None, -1.0),
        ("value", 0.25, None, 0.25),
        ("value", -1, None, -1.0),
        ("value", 1.01, None, None),
        ("value", "great", None, None),
        ("value", "great", MOOD, 1.0),
        ("value", "awful", MOOD, -0.5),
        ("value", "else", MOOD, None),
        ("value", 0, MINUTES, 1.0),
        ("value", 5, MINUTES, 0.0),
        ("value", 10, MINUTES, -1.0),
        ("value", 1e300, MINUTES, -1.0),
        ("value", True, MINUTES, -1.0),
        ("value", 0.5, MetricSettings(optimize="min"), -0.5),
        ("value", 7, MetricSettings(optimize="min"), None),
        ("thumb", "up", None, 1.0),
        ("thumb", "down", MINUTES, -1.0),
        ("reward", -0.5, MINUTES, -0.5),
        ("rating", 1, None, -1.0),
        ("rating", 2, None, -0.5),
        ("rating", 3, None, 0.0),
        ("rating", 5, None, 1.0),
        (None, None, None, None),
    ],
)
def test_every_form_has_its_worth(
    form: str | None, value: Any, metric: MetricSettings | None, reward: float | None
) -> None:
    assert worth(form, value, metric) == reward


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    value=st.one_of(st.booleans(), finite, st.integers(), st.text(max_size=9)),
    ends=st.none() | st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]),
    optimize=st.sampled_from(["max", "min"]),
)
def test_a_reward_is_finite_and_in_range(
    value: Any, ends: tuple[float, float] | None, optimize: Any
) -> None:
    low, high = ends or (None, None)
    found = worth("value", value, MetricSettings(low=low, high=high, optimize=optimize))
    assert found is None or (math.isfinite(found) and -1 <= found <= 1)
    if ends is not None and not isinstance(value, str):
        assert found is not None


@given(finite, finite, st.tuples(finite, finite).filter(lambda pair: pair[0] < pair[1]))
def test_more_is_never_worth_less(one: float, other: float, ends: tuple[float, float]) -> None:
    metric = MetricSettings(low=ends[0], high=ends[1])
    lower, higher = (worth("value", value, metric) for value in sorted((one, other)))
    assert lower is not None
    assert higher is not None
    assert lower <= higher


@pytest.mark.parametrize("wrong", [{"low": 0}, {"high": 1}, {"low": 1, "high": 1}])
def test_half_a_range_is_none(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        MetricSettings.model_validate(wrong)
