"""What a signal is: a named fault, and the function that finds it."""

from collections.abc import Callable
from dataclasses import dataclass

from workers.rewards.story import Turn


@dataclass(frozen=True, slots=True)
class Signal:
    """A named fault: `find` gives the reason when it is there. A new meaning is a new version.

    `find` is pure: it reads one turn and its neighbours, and nothing else. `default` is the
    reward where the settings say nothing; 0 is off.
    """

    name: str
    version: int
    default: float
    find: Callable[[Turn], str | None]
