"""What a judge, a webhook or a custom reward says, checked; and why it may say nothing. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trajectories.errors import RatchetError
from trajectories.model import Trajectory

MAX_OPINIONS = 256
MAX_REASON = 2000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class NoVerdict(RatchetError):
    """There is no verdict: `reason` is one of a few words, to be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail[:MAX_REASON]


@dataclass(frozen=True, slots=True)
class Opinion:
    """One reward: of the trajectory, or of one transition."""

    name: str
    value: float
    transition_id: str | None = None
    reason: str = ""
    is_calibrated: bool = True  # False: `value` is a judge's raw score, on its own scale


def opinions_from(said: Any, trajectory: Trajectory, name: str) -> list[Opinion]:
    """Rewards as programs give them: a number, a mapping of names to numbers, a list, or None.

    An entry of a list is `{"value", "name"?, "transition_id"?, "reason"?}`. One that
    is wrong makes the whole void. Raises NoVerdict, reason `garbage` or `out_of_range`.
    """
    if said is None:
        return []
    if _is_number(said):
        return [Opinion(name, _checked(said, name))]
    if isinstance(said, Mapping):
        return [Opinion(_named(key), _checked(value, key)) for key, value in said.items()]
    if not isinstance(said, list | tuple):
        raise NoVerdict("garbage", f"a {type(said).__name__} is no reward: give a number")
    if len(said) > MAX_OPINIONS:
        raise NoVerdict("garbage", f"{len(said)} rewards are more than {MAX_OPINIONS}")
    known = {transition.id for transition in trajectory.transitions}
    opinions = [_entry(entry, known, name) for entry in said]
    if len({(opinion.name, opinion.transition_id) for opinion in opinions}) < len(opinions):
        raise NoVerdict("garbage", "two rewards of one name for the same thing")
    return opinions


def _entry(entry: Any, known: set[str], name: str) -> Opinion:
    if not isinstance(entry, Mapping):
        raise NoVerdict("garbage", f"a list holds objects, not {type(entry).__name__}")
    if unknown := sorted(set(entry) - {"name", "value", "transition_id", "reason"}):
        raise NoVerdict("garbage", f"unknown field {unknown[0]!r} in a reward")
    transition_id = entry.get("transition_id")
    if transition_id is not None and transition_id not in known:
        raise NoVerdict("garbage", f"{transition_id!r} is no transition of this trajectory")
    reason = entry.get("reason") or ""
    if not isinstance(reason, str):
        raise NoVerdict("garbage", "a reason is a text")
    own = _named(entry.get("name") or name)
    return Opinion(own, _checked(entry.get("value"), own), transition_id, reason[:MAX_REASON])


def _named(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NoVerdict("garbage", f"{name!r:.80} is no name of a reward: A-Z a-z 0-9 _ . -")
    return name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(value: Any, name: Any) -> float:
    if not _is_number(value):
        kind = type(value).__name__
        raise NoVerdict("garbage", f"the value of {name!r:.80} is a {kind}, not a number")
    if not (-1 <= value <= 1) or math.isnan(value):
        raise NoVerdict(
            "out_of_range", f"the value of {name!r:.80} is {value!r:.40}: not in [-1, 1]"
        )
    return float(value)
