"""The people who ask: they seldom say anything, and rather when the answer was wrong.

Pure: chance comes from a generator that the caller seeds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Thumb(StrEnum):
    """What a user may say about a session."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Habits:
    """How often people say something, and how often they slip."""

    speaks_when_wrong: float = 0.12
    speaks_when_right: float = 0.08
    slips: float = 0.02
    cap: float = 0.10


class Crowd:
    """All users together. Thumbs never exceed `cap` of the sessions so far."""

    def __init__(self, rng: random.Random, habits: Habits | None = None) -> None:
        self.habits = habits or Habits()
        self.sessions = 0
        self.thumbs = 0
        self._rng = rng

    def react(self, is_right: bool) -> Thumb | None:
        """A finished session's thumb, or None for silence."""
        self.sessions += 1
        habits = self.habits
        chance = habits.speaks_when_right if is_right else habits.speaks_when_wrong
        speaks = self._rng.random() < chance
        slips = self._rng.random() < habits.slips
        if not speaks or self.thumbs + 1 > habits.cap * self.sessions:
            return None
        self.thumbs += 1
        return Thumb.UP if is_right is not slips else Thumb.DOWN
