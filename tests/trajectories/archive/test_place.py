"""Files of the archive: whole or not there, on a disk and in an object store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from tests.trajectories.archive.conftest import closed_port
from tests.trajectories.archive.records import archived
from tests.workers.test_archiver import A, archive_all, record
from trajectories.archive import Archive, Place, Writer
from trajectories.errors import ArchiveError


def segment(place: Place, **options: Any) -> Writer:
    writer = Writer(place, 1, **options)
    writer.add(archived())
    return writer


def test_the_archiver_writes_to_an_object_store_as_to_a_disk(place: Place) -> None:
    redis: Any = fakeredis.FakeRedis()
    store = record(redis, turns=3)
    archive_all(redis, place)
    cold = Archive(place).read(A)
    assert cold is not None
    assert cold.trajectory == store.trajectory(A)
    assert store.count_archiving() == 0
    names = sorted(name.rsplit("-", 1)[1].split(".", 1)[1] for name in place.find(""))
    assert names == ["index", "jsonl.zst", "manifest.json"]


def test_an_upload_that_arrives_otherwise_is_no_segment(s3: dict[str, Any], place: Place) -> None:
    if place.is_local:
        pytest.skip("a disk has no uploads")
    whole = place._fs.put_file

    def torn(source: str, target: str, **options: Any) -> None:
        content = Path(source).read_bytes()
        Path(source).write_bytes(content[:-1] + b"?")
        whole(source, target, **options)
        Path(source).write_bytes(content)

    place._fs.put_file = torn
    try:
        with pytest.raises(ArchiveError, match="arrived otherwise than it was sent"):
            list(segment(place).seal())
    finally:
        place._fs.put_file = whole
    assert list(Archive(place).scan()) == []
    list(segment(place).seal())
    assert len(list(Archive(place).scan())) == 1


def test_a_place_that_refuses_is_an_error_and_leaves_no_draft(place: Place) -> None:
    def refuse(step: str) -> None:
        if step == "stored":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        list(segment(place, hook=refuse).seal())
    assert list(Archive(place).scan()) == []
    if place.is_local:
        assert not [file for file in Path(place.root).rglob(".drafts/*/*") if file.is_file()]


def test_a_small_file_is_replaced_as_a_whole(place: Place) -> None:
    place.write("date=1/x.manifest.json", b"one")
    mark = place.find(".json")["date=1/x.manifest.json"]
    place.write("date=1/x.manifest.json", b"twice")
    assert place.read("date=1/x.manifest.json") == b"twice"
    assert place.find(".json")["date=1/x.manifest.json"] != mark
    place.delete("date=1/x.manifest.json")
    place.delete("date=1/x.manifest.json")
    assert place.find("") == {}


def test_a_write_that_fails_leaves_the_old_file(local: Place, monkeypatch: Any) -> None:
    local.write("x.manifest.json", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        local.write("x.manifest.json", b"new")
    assert local.read("x.manifest.json") == b"old"
    assert [path.name for path in Path(local.root).iterdir()] == ["x.manifest.json"]


def test_ages_are_known_where_the_file_system_tells_them(place: Place) -> None:
    place.write("x.index", b"")
    assert place.age_seconds("x.index", 4e9) > 1e9
    assert place.age_seconds("none.index", 4e9) == 0.0


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Place:
    """An object store behind a closed port."""
    return Place("s3://bucket/kept", **closed_port(monkeypatch))


@pytest.mark.parametrize(
    "step",
    [
        lambda place: place.find(""),
        lambda place: place.read("x"),
        lambda place: place.write("x", b""),
        lambda place: place.size("x"),
        lambda place: place.open("x"),
        lambda place: place.age_seconds("x", 0),
        lambda place: place.delete("x"),
        lambda place: place.sha256("x"),
    ],
)
def test_a_store_that_is_away_is_an_os_error(away: Place, step: Callable[[Place], object]) -> None:
    with pytest.raises(OSError, match="cannot be reached: EndpointConnectionError") as raised:
        step(away)
    assert raised.value.errno, "else it would count as a damaged file"


def test_a_store_without_credentials_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    options = closed_port(monkeypatch)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(OSError, match="NoCredentials"):
        Place("s3://bucket/kept", **options).find("")


def test_a_store_that_goes_away_while_a_file_is_read_is_an_os_error(
    s3: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.is_local:
        pytest.skip("a disk does not go away")
    place.write("x", b"content")

    def fail(*_: object, **__: object) -> bytes:
        raise RuntimeError("reset by peer")

    with place.open("x") as file:
        monkeypatch.setattr(file._file, "_fetch_range", fail)
        monkeypatch.setattr(file._file.cache, "fetcher", fail)
        with pytest.raises(OSError, match="reset by peer"):
            file.read(4)


def test_the_archiver_waits_for_a_store_that_is_away_and_lets_nothing_expire(away: Place) -> None:
    redis: Any = fakeredis.FakeRedis()
    store = record(redis)
    archive_all(redis, away)
    assert store.counts()["archive_failures"] > 0
    assert store.count_archiving() == 1
