"""What was written is read: one, all, each once, and what is damaged is named."""

from pathlib import Path

import orjson
import pytest
import zstandard

from tests.trajectories.archive.records import archived
from trajectories.archive import Archive, Archived, Filters, Place, Writer
from trajectories.archive.index import Entry, Index
from trajectories.errors import ArchiveError, SettingsError
from trajectories.store import TrajectoryRef

FORMATS = ("jsonl.zst", "parquet")
DAY = 86_400.0


def write(place: Place, *records: Archived, fence: int = 1, **options: object) -> None:
    writer = Writer(place, fence, **options)  # type: ignore[arg-type]
    for record in records:
        writer.add(record, now=5.0)
    sealed = [ref for refs in writer.seal() for ref in refs]
    assert len(sealed) == len(records)


def names(archive: Archive, **filters: object) -> list[str]:
    return sorted(r.trajectory.id for r in archive.scan(Filters(**filters)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_trajectory_is_found_and_equal_to_what_was_written(place: Place, kind: str) -> None:
    records = [archived(f"traj_{n}", turns=2 + n % 3, at=1e9 + n) for n in range(40)]
    write(place, *records, format=kind, block_bytes=10_000)
    archive = Archive(place)
    for record in records[::7]:
        assert archive.read(record.ref) == record
    assert archive.read(TrajectoryRef("default", "traj_none")) is None
    assert archive.read(TrajectoryRef("other", "traj_1")) is None
    assert sorted(archive.scan(), key=lambda r: r.trajectory.started_at) == records


@pytest.mark.parametrize("kind", FORMATS)
def test_only_the_last_edition_is_read_whichever_order_they_lie_in(local: Place, kind: str) -> None:
    write(local, archived(edition=2, reward=0.2), archived("traj_b"), fence=3, format=kind)
    write(local, archived(edition=1, reward=0.1), fence=9, format=kind)
    write(local, archived(edition=2, reward=0.25), fence=4, format=kind)
    archive = Archive(local)
    found = archive.read(TrajectoryRef("default", "traj_a"))
    assert found is not None
    assert found.trajectory.reward == 0.25
    assert sorted((r.trajectory.id, r.trajectory.reward) for r in archive.scan()) == [
        ("traj_a", 0.25),
        ("traj_b", 0.5),
    ]


def test_an_edition_twice_in_one_segment_is_read_once(local: Place) -> None:
    write(local, archived(), archived(), archived(edition=2, reward=None))
    assert [r.edition for r in Archive(local).scan()] == [2]


def test_filters_leave_out_what_is_not_wanted(local: Place) -> None:
    write(
        local,
        archived("plain", reward=None),
        archived("good", reward=0.9, agent="support", task="t1"),
        archived("bad", reward=-0.9, at=1_700_000_000.0 + 3 * DAY),
        archived("theirs", tenant="acme"),
    )
    archive = Archive(local)
    assert names(archive) == ["bad", "good", "plain", "theirs"]
    assert names(archive, tenant="acme") == ["theirs"]
    assert names(archive, agent="support") == names(archive, task="t1") == ["good"]
    assert names(archive, min_reward=0.4) == ["good", "theirs"]
    assert names(archive, max_reward=0.0) == ["bad"]
    assert names(archive, since=1_700_000_000.0 + DAY) == ["bad"]
    assert names(archive, until=1_700_000_000.0 + DAY) == ["good", "plain", "theirs"]
    assert names(archive, is_labelled=True) == ["bad", "good", "theirs"]
    assert names(archive, source="feedback") == ["bad", "good", "theirs"]
    assert names(archive, source="feedback:human", policy="policy", version=0, tenant="acme") == [
        "theirs"
    ]
    assert names(archive, version=7) == names(archive, source="air") == []


def test_a_day_and_a_tenant_have_a_directory_and_any_engine_reads_the_lines(local: Place) -> None:
    write(local, archived(at=1_700_000_000.0, tenant="a/b"))
    root = Path(local.root)
    (file,) = root.rglob("*.jsonl.zst")
    assert file.parent.relative_to(root).as_posix() == "date=2023-11-14/tenant=a%2Fb"
    with zstandard.open(file, "rt", encoding="utf-8") as lines:
        assert [orjson.loads(line)["id"] for line in lines] == ["traj_a"]


def test_other_engines_read_the_columns_of_parquet(local: Place) -> None:
    import pyarrow.parquet

    write(local, archived(reward=0.25, agent="support"), format="parquet")
    (file,) = Path(local.root).rglob("*.parquet")
    (row,) = pyarrow.parquet.ParquetFile(file).read().to_pylist()
    assert (row["id"], row["reward"], row["agents"], row["steps"]) == (
        "traj_a",
        0.25,
        ["support"],
        3,
    )


def test_a_record_of_ten_megabytes_passes(place: Place) -> None:
    record = archived(turns=1)
    (step,) = record.trajectory.transitions
    long = step.model_copy(update={"request": {"messages": [{"content": "ä" * 5_000_000}]}})
    big = Archived(record.trajectory.model_copy(update={"transitions": (long,)}))
    write(place, archived("traj_b"), big, archived("traj_c"))
    assert Archive(place).read(big.ref) == big
    assert names(Archive(place)) == ["traj_a", "traj_b", "traj_c"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("harm", ["torn", "flipped", "gone"])
def test_a_damaged_segment_is_named_with_what_to_do(local: Place, kind: str, harm: str) -> None:
    write(local, archived(), format=kind)
    (file,) = Path(local.root).rglob(f"*.{kind}")
    content = file.read_bytes()
    file.unlink()
    if harm == "torn":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        at = len(content) // 4  # within the records; behind them is what readers may pass over
        file.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    archive = Archive(local)
    with pytest.raises(ArchiveError, match=r"segment-00000001-\d+.*is damaged.*sound copy"):
        list(archive.scan())
    with pytest.raises(ArchiveError, match=r"is damaged"):
        archive.read(TrajectoryRef("default", "traj_a"))


def test_a_damaged_index_is_named(local: Place) -> None:
    write(local, archived())
    (file,) = Path(local.root).rglob("*.index")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArchiveError, match="index"):
        Archive(local).read(TrajectoryRef("default", "traj_a"))
    file.unlink()
    with pytest.raises(ArchiveError, match="its index is not there"):
        list(Archive(local).scan())


def test_a_file_that_no_manifest_names_does_not_exist(local: Place) -> None:
    write(local, archived())
    (manifest,) = Path(local.root).rglob("*.manifest.json")
    manifest.unlink()
    assert names(Archive(local)) == []


def test_what_others_write_is_seen_and_what_is_no_manifest_is_an_error(local: Place) -> None:
    archive = Archive(local, look_seconds=0)
    assert names(archive) == []
    write(local, archived())
    assert names(archive) == ["traj_a"]
    (manifest,) = Path(local.root).rglob("*.manifest.json")
    manifest.write_bytes(b"{")
    with pytest.raises(ArchiveError, match="is no manifest"):
        names(archive)


def test_a_segment_that_was_written_anew_meanwhile_is_no_damage(local: Place) -> None:
    write(local, archived())
    archive = Archive(local, look_seconds=float("inf"))
    ref = TrajectoryRef("default", "traj_a")
    assert archive.read(ref) is not None
    for file in Path(local.root).rglob("segment-*"):
        file.unlink()
    write(local, archived(), fence=2)
    assert archive.read(ref) == archived()


def test_an_index_finds_the_highest_edition_and_its_ends() -> None:
    digests = (0, 5, 2**64 - 1)
    entries = [Entry(digest, edition, edition * 10) for digest in digests for edition in (2, 1)]
    index = Index.from_bytes(Index(entries, [(0, 9)]).to_bytes(), "x")
    assert [index.find(digest) for digest in digests] == [Entry(d, 2, 20) for d in digests]
    assert index.find(4) is index.find(6) is None
    assert index.blocks == [(0, 9)]


def test_a_file_system_that_is_not_installed_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"archive\.url is nowhere://x"):
        Place("nowhere://x")


def test_a_segment_whose_ids_lie_elsewhere_is_not_looked_into(local: Place) -> None:
    write(local, archived("traj_b"), archived("traj_d"), fence=1)
    write(local, archived("traj_x"), fence=2)
    archive = Archive(local)
    assert archive.edition(TrajectoryRef("default", "traj_c")) is None
    assert archive.edition(TrajectoryRef("default", "traj_b")) == 1
    assert archive.read(TrajectoryRef("default", "traj_d")) is not None
    assert len(archive._indexes) == 1
