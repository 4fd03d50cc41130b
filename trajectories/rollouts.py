"""Rollouts: answers to a recorded prompt that the house itself asked for (docs/siblings.md). Pure.

Their trajectories are named after what they are siblings of, so that whoever
knows a transition can find all of them without a list: to forget them, for one.
"""

import re
from dataclasses import dataclass
from typing import Self

from trajectories.ids import derived_id

HEADER = "x-ratchet-rollout"
MOST_ANSWERS = 16  # to one recorded prompt
_WRITTEN = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})/([A-Za-z0-9_.~-]{1,128})/([0-9]{1,2})")


@dataclass(frozen=True, slots=True)
class Rollout:
    """The `number`-th further answer to what `transition` was asked; written with slashes."""

    tenant: str
    transition: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What the header says; None when it is none.

        >>> Rollout.parse("acme/tr_1/3")
        Rollout(tenant='acme', transition='tr_1', number=3)
        """
        found = _WRITTEN.fullmatch(text)
        if found is None or int(found[3]) >= MOST_ANSWERS:
            return None
        return cls(found[1], found[2], int(found[3]))

    def __str__(self) -> str:
        return f"{self.tenant}/{self.transition}/{self.number}"

    @property
    def trajectory_id(self) -> str:
        """What its trajectory is called: nothing that a client can name is called so."""
        return derived_id("traj", self.tenant, "rollout", self.transition, str(self.number))


def siblings_of(tenant: str, transition: str) -> list[str]:
    """Ids of all trajectories that siblings of a transition may have."""
    return [Rollout(tenant, transition, number).trajectory_id for number in range(MOST_ANSWERS)]
