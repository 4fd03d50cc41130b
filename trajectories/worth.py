"""From what a vote says to a reward in [-1, 1], or to none. Pure.

A number means something only on a scale. Without one under its name it is taken
where it lies in [-1, 1], and is kept without a reward where it does not.
"""

from collections.abc import Mapping
from typing import Any

from trajectories.settings.rewards import MetricSettings

THUMBS: Mapping[str, float] = {"up": 1.0, "down": -1.0}
_PLAIN = MetricSettings()


def worth(form: str | None, value: Any, metric: MetricSettings | None = None) -> float | None:
    """The reward that `value`, said in one form (`Feedback.form`), stands for.

    >>> worth("rating", 4), worth("value", True), worth("value", 7)
    (0.5, 1.0, None)
    """
    if form == "reward":
        return float(value)
    if form == "thumb":
        return THUMBS[value]
    if form == "rating":
        return _linear(float(value), 1.0, 5.0)
    if form != "value":
        return None
    metric = metric or _PLAIN
    if isinstance(value, str):
        return metric.values.get(value)
    found = _of_number(value, metric)
    return -found if found and metric.optimize == "min" else found


def _of_number(value: bool | float, metric: MetricSettings) -> float | None:
    if isinstance(value, bool):
        return 1.0 if value else -1.0
    if metric.low is not None and metric.high is not None:
        return _linear(value, metric.low, metric.high)
    return float(value) if -1 <= value <= 1 else None


def _linear(value: float, low: float, high: float) -> float:
    """From [low, high] to [-1, 1]; what lies outside counts as its end."""
    if value <= low:
        return -1.0
    if value >= high:
        return 1.0
    # Halves first: the width of the range may be more than a float holds.
    share = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(1.0, max(-1.0, 2 * share - 1))
