"""The spool keeps what it accepted: torn tails, short writes, budgets, blocks of sequences."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.spool.directory import lock_directory
from gateway.spool.segments import Frame, SegmentReader, list_segments, read_frames
from gateway.spool.syncer import Syncer
from gateway.spool.writer import BLOCK
from tests.gateway.conftest import open_spool
from trajectories.errors import SpoolError, SpoolFull


def payloads(directory: Path) -> list[bytes]:
    return [frame.payload for path in list_segments(directory) for frame in read_frames(path)]


def test_a_restart_takes_the_directory_over_and_begins_at_the_next_block(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    used = [first.put(b"a"), first.put(b"b")]
    first.close()
    again = open_spool(tmp_path)
    assert again.producer == first.producer
    assert again.put(b"c") == used[0] + BLOCK
    assert payloads(again.directory) == [b"a", b"b", b"c"]
    again.close()


def test_what_an_earlier_process_did_not_ship_is_counted(tmp_path: Path) -> None:
    first = open_spool(tmp_path, segment=1_000)
    used = [first.put(b"x" * 300) for _ in range(10)]
    first.close()
    again = open_spool(tmp_path)
    again.put(b"b")
    assert again.unshipped == 11
    again.mark_shipped(used[3])
    assert again.unshipped == 7
    again.mark_shipped(again.last)
    assert again.unshipped == 0
    again.close()


def test_a_lost_note_does_not_bring_a_sequence_back(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    used = first.put(b"a")
    first.close()
    (first.directory / "producer.json").write_text("{}")
    again = open_spool(tmp_path)
    assert again.producer != first.producer
    assert again.put(b"b") >= used + BLOCK - 1
    again.close()


def test_two_processes_never_share_a_directory(tmp_path: Path) -> None:
    one, two = open_spool(tmp_path), open_spool(tmp_path)
    assert one.directory != two.directory
    assert one.producer != two.producer
    assert lock_directory(one.directory) is None
    one.close()
    two.close()


def test_a_torn_tail_is_cut_and_what_was_whole_stays(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(10):
        spool.put(b"record %d" % number)
    spool.close()
    (segment,) = list_segments(spool.directory)
    os.truncate(segment, segment.stat().st_size - 3)
    again = open_spool(tmp_path)
    again.put(b"new")
    assert payloads(again.directory) == [*(b"record %d" % n for n in range(9)), b"new"]
    again.close()


SHORT_WRITE = """
import resource, signal, sys
from pathlib import Path
from gateway.spool.writer import Spool
from trajectories.errors import SpoolError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool.open(Path(sys.argv[1]), budget_bytes=1 << 24)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
kept, refused = [], 0
for number in range(30):
    if number == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        spool.put(b"%03d" % number + b"x" * 997)
        kept.append(number)
    except SpoolError:
        refused += 1
assert 9 <= refused <= 12, refused
sys.stdout.write(",".join(map(str, kept)))
"""


def test_a_short_write_leaves_no_half_frame_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT_WRITE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept = [int(number) for number in done.stdout.split(",")]
    assert kept[-1] == 29
    assert len(kept) >= 18
    spool = open_spool(tmp_path)
    assert [int(payload[:3]) for payload in payloads(spool.directory)] == kept
    spool.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) is not None


def test_a_full_spool_refuses_until_something_was_shipped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, budget=10_000, segment=2_000)
    while not spool.is_full:
        spool.put(b"x" * 500)
    with pytest.raises(SpoolFull):
        spool.put(b"x" * 500)
    spool.mark_shipped(spool.last)
    spool.put(b"y" * 500)
    assert spool.size_bytes <= 10_000
    spool.close()


def test_a_broken_segment_is_set_aside_and_the_rest_read(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment=1_000)
    for number in range(12):
        spool.put(b"%02d" % number + b"x" * 300)
    second = list_segments(spool.directory)[1]
    raw = bytearray(second.read_bytes())
    raw[40] ^= 1
    second.write_bytes(raw)
    reader = SegmentReader(spool.directory)
    reader.seek(0)
    read = [int(frame.payload[:2]) for frame in reader.read(100, 1 << 20)]
    assert reader.corrupt_segments == 1
    assert second.with_suffix(".bad").exists()
    assert read == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    spool.close()


def test_a_spool_that_cannot_write_says_so(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    os.close(spool._descriptor)
    spool._descriptor = os.open(spool._path, os.O_RDONLY)
    with pytest.raises(SpoolError):
        spool.put(b"x")
    spool.close()


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """Lets the process open no more files while the test says so."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_rotation_that_fails_keeps_the_open_segment(
    tmp_path: Path, no_descriptor_left: None
) -> None:
    spool = open_spool(tmp_path, segment=1_000)
    spool.put(b"a" * 900)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    for _ in range(2):
        with pytest.raises(SpoolError):
            spool.put(b"b" * 900)
    os.fstat(spool._descriptor)  # ours still: its number was given to nobody else
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    spool.put(b"c" * 900)
    assert payloads(spool.directory) == [b"a" * 900, b"c" * 900]
    spool.close()


def test_a_torn_frame_that_cannot_be_cut_off_ends_its_segment(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    first = spool.put(b"a")
    descriptor, spool._descriptor = spool._descriptor, os.open(spool._path, os.O_RDONLY)
    with pytest.raises(SpoolError):
        spool.put(b"lost")
    os.close(descriptor)
    assert spool.put(b"b") == first + 2, "the torn frame may have carried the number between"
    assert len(list_segments(spool.directory)) == 2
    assert payloads(spool.directory) == [b"a", b"b"]
    spool.close()


def test_a_closed_spool_takes_nothing_and_removes_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, budget=10_000, segment=500)
    for _ in range(4):
        spool.put(b"x" * 400)
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.put(b"late")
    with pytest.raises(SpoolError, match="closed"):
        spool.change_producer()
    spool.mark_shipped(spool.last)
    assert len(payloads(spool.directory)) == 4


def test_a_small_budget_is_used_again_and_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, budget=10_000, segment=1 << 26)
    for _ in range(100):
        spool.mark_shipped(spool.put(b"x" * 500))
    assert not spool.is_full
    assert spool.size_bytes <= 10_000
    spool.close()


@pytest.mark.parametrize("note", [b"", b"{oops", b"[1]", b'{"producer":"gw_1","reserved":"many"}'])
def test_a_broken_note_does_not_stop_a_start(tmp_path: Path, note: bytes) -> None:
    first = open_spool(tmp_path)
    used = first.put(b"a")
    first.close()
    (first.directory / "producer.json").write_bytes(note)
    again = open_spool(tmp_path)
    assert again.put(b"b") > used
    assert payloads(again.directory) == [b"a", b"b"]
    again.close()


def test_a_directory_that_is_being_removed_is_not_taken(tmp_path: Path) -> None:
    assert lock_directory(tmp_path / "gone") is None


def test_a_sync_that_fails_is_tried_again_and_ends_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    syncer = Syncer(seconds=60)
    syncer.mark(writing)  # a pipe cannot be synced
    syncer.sync()
    assert syncer._dirty == {writing}
    syncer.retire(writing)
    syncer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)
    os.close(reading)


def test_many_records_are_one_write_and_read_back_as_they_would_one_by_one(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.put(b"first")
    assert spool.put_all([b"a", b"b" * 1000, b""])
    last = spool.put(b"last")
    frames = [frame for path in list_segments(spool.directory) for frame in read_frames(path)]
    assert [frame.payload for frame in frames] == [b"first", b"a", b"b" * 1000, b"", b"last"]
    assert [frame.sequence for frame in frames] == list(range(last - 4, last + 1))
    assert spool.recent.after(spool.first, 9, 1 << 20) == [
        Frame(frame.sequence, frame.payload, 0) for frame in frames[1:]
    ]
    spool.close()


def test_what_does_not_fit_into_one_write_is_refused_whole(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, budget=40_000, segment=10_000)
    assert not spool.put_all([b"x" * 6_000, b"y" * 6_000]), "more than a segment"
    assert not spool.put_all([b"x"] * 600), "more than the kernel takes"
    assert spool.last == spool.first - 1
    spool.close()
    assert not spool.put_all([b"late"])


def test_a_disk_that_takes_half_of_many_records_has_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda to, pieces: writev(to, pieces[:3]))
    assert not spool.put_all([b"a", b"b"])
    monkeypatch.undo()
    spool.put(b"c")
    assert payloads(spool.directory) == [b"c"]
    spool.close()


def test_a_batch_that_is_torn_on_a_disk_that_cannot_be_mended_gives_no_number_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    writev = os.writev

    def torn(descriptor: int, pieces: list[bytes]) -> int:
        return writev(descriptor, pieces[:5])  # two frames and a header

    def broken(descriptor: int, length: int) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(os, "writev", torn)
    monkeypatch.setattr(os, "ftruncate", broken)
    assert not spool.put_all([b"a", b"b", b"c"])
    monkeypatch.undo()
    for payload in (b"a", b"b", b"c"):  # as the recorder does
        spool.put(payload)
    frames = [frame for path in list_segments(spool.directory) for frame in read_frames(path)]
    numbers = [frame.sequence for frame in frames]
    assert numbers == sorted(set(numbers))
    assert [frame.payload for frame in frames][-3:] == [b"a", b"b", b"c"]
    spool.close()
