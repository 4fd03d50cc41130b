"""A version's lineage: every run back to the base, and the votes that made it."""

from pathlib import Path

import orjson
import pytest

from ratchet.lineage import Origin, lineage
from trajectories.errors import RatchetError
from trajectories.registry import Snapshot
from trajectories.resources import PolicyVersion, VersionState


def entry(version: int, parent: int | None, run_id: str | None) -> PolicyVersion:
    return PolicyVersion(
        policy="policy",
        version=version,
        model=f"m{version}",
        state=VersionState.RETIRED,
        parent=parent,
        run_id=run_id,
        created_at=0.0,
    )


SNAPSHOT = Snapshot(
    policy="policy",
    revision=1,
    current=2,
    versions={0: entry(0, None, None), 1: entry(1, 0, "run_a"), 2: entry(2, 1, "run_b")},
)


def write(runs: Path, run_id: str, *rows: dict[str, object]) -> None:
    (runs / run_id).mkdir()
    lines = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (runs / run_id / "batch.jsonl").write_bytes(lines)


def test_each_version_names_the_votes_and_the_people_it_was_made_of(tmp_path: Path) -> None:
    write(
        tmp_path,
        "run_b",
        {"trajectory": "d/1", "feedback": ["fb-1"], "principals": ["ann"]},
        {"trajectory": "d/1", "feedback": ["fb-1"], "principals": ["ann"]},
        {"trajectory": "d/2", "feedback": ["fb-2", "fb-3"], "principals": ["ann", "bob"]},
        {"trajectory": "d/3"},
    )
    newest, middle, base = lineage(SNAPSHOT, tmp_path, 2)
    assert newest == Origin(2, 1, "run_b", 3, ("fb-1", "fb-2", "fb-3"), {"ann": 2, "bob": 1})
    assert middle == Origin(1, 0, "run_a", is_on_disk=False)
    assert base == Origin(0, None, None)


def test_a_version_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RatchetError, match=r"no version 7 \(there are: 0, 1, 2\)"):
        lineage(SNAPSHOT, tmp_path, 7)
