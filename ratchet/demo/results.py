"""What a run of the demo measured: the figures that go into `demo-results.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Point:
    """The traffic as it stood after so many sessions; the last sessions' mean, not the total's."""

    sessions: int
    accuracy: float  # share of right answers, known to the onlooker only
    reward: float | None  # mean thumb, +1 or -1


@dataclass(frozen=True, slots=True)
class Version:
    """One promoted policy version."""

    version: int
    sessions: int  # traffic so far when it was promoted
    held_out_accuracy: float
    trajectories: int  # rewarded trajectories it was trained on
    swap_seconds: float  # from the adapter on disk to its promotion: load, probe, promote


@dataclass(slots=True)
class Results:
    """The whole run. `accuracy_*` are on held-out questions, asked past the gateway."""

    seed: int
    is_shuffled: bool
    sessions: int = 0
    labels: int = 0
    accuracy_before: float = 0.0
    accuracy_after: float = 0.0
    curve: list[Point] = field(default_factory=list)
    requests: int = 0
    failed_requests: int = 0
    cut_streams: int = 0
    versions: list[Version] = field(default_factory=list)
    swap_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """Write them as JSON, whole or not at all."""
        temporary = path.with_suffix(".partial")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
