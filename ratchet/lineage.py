"""Where a policy version comes from: its runs back to the base model, and whose votes made them.

Read from the run directories that the trainer leaves, so it is told where the
trainer's disk is. What was erased from them since (`ratchet forget`) is gone here too.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from trajectories.errors import RatchetError
from trajectories.registry import Snapshot


@dataclass(frozen=True, slots=True)
class Origin:
    """One version of a lineage, and what it was trained on."""

    version: int
    parent: int | None
    run_id: str | None
    trajectories: int = 0
    votes: tuple[str, ...] = ()  # ids of feedback
    principals: Mapping[str, int] = field(default_factory=dict)  # who -> trajectories labelled
    is_on_disk: bool = True


def lineage(snapshot: Snapshot, runs_dir: Path, version: int) -> list[Origin]:
    """The version and all before it, newest first. Raises RatchetError when it is unknown."""
    known = snapshot.versions
    if version not in known:
        there = ", ".join(str(number) for number in sorted(known))
        raise RatchetError(f"there is no version {version} (there are: {there})")
    found: list[Origin] = []
    following: int | None = version
    while following is not None and following in known:
        entry = known[following]
        found.append(_origin(following, entry.parent, entry.run_id, runs_dir))
        following = entry.parent
    return found


def _origin(version: int, parent: int | None, run_id: str | None, runs_dir: Path) -> Origin:
    if run_id is None:  # the base model
        return Origin(version, parent, None)
    batch = runs_dir / run_id / "batch.jsonl"
    if not batch.is_file():
        return Origin(version, parent, run_id, is_on_disk=False)
    trajectories: set[str] = set()
    votes: set[str] = set()
    labelled: set[tuple[str, str]] = set()
    with batch.open("rb") as rows:
        for row in rows:
            sample = orjson.loads(row)
            trajectories.add(sample["trajectory"])
            votes.update(sample.get("feedback", ()))
            labelled.update((who, sample["trajectory"]) for who in sample.get("principals", ()))
    principals = Counter(who for who, _ in labelled)
    return Origin(
        version,
        parent,
        run_id,
        len(trajectories),
        tuple(sorted(votes)),
        dict(principals.most_common()),
    )
