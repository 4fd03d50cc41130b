"""Which verdicts a trajectory is due: a pure reading of the settings. Nobody is asked here."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from trajectories.ids import derived_id
from trajectories.model import Trajectory
from trajectories.settings import VerdictSettings


@dataclass(frozen=True, slots=True)
class Roster:
    """Judges, webhooks and custom rewards by name."""

    sources: Mapping[str, VerdictSettings] = field(default_factory=dict)

    def due_for(self, trajectory: Trajectory) -> list[str]:
        """Names of those that look at this trajectory; the same whenever it is asked."""
        if not any(transition.is_trainable for transition in trajectory.transitions):
            return []  # who opted out of training is not read by judges either
        return [
            name
            for name, source in self.sources.items()
            if (not source.agents or trajectory.agent in source.agents)
            # Siblings were asked for to be judged: all of them, or a group has gaps.
            and (trajectory.rollout is not None or _position(name, trajectory) < source.share)
        ]

    def stamp(self, name: str, trajectory: Trajectory) -> str:
        """Of which content a verdict is, and by which version of whom."""
        content = derived_id("of", *(transition.id for transition in trajectory.transitions))
        return f"{self.sources[name].version}:{content}"


def _position(name: str, trajectory: Trajectory) -> float:
    """A number in [0, 1) that hangs on nothing but the judge's and the trajectory's names."""
    text = f"{name} {trajectory.tenant}/{trajectory.id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()[:6]) / 2**48
