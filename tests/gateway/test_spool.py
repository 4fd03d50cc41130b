"""The spool keeps what it accepted: torn tails, short writes, budgets, blocks of sequences."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import fakeredis
import pytest

from gateway.metrics import Metrics
from gateway.segments import SegmentReader, list_segments, read_frames
from gateway.shipper import Lane, Shipper
from gateway.spool import BLOCK, Spool
from gateway.spool_directory import lock_directory
from tests.gateway.conftest import wait_for
from trajectories import keys
from trajectories.errors import SpoolError, SpoolFull


def open_spool(root: Path, budget: int = 1 << 24, segment: int = 1 << 20) -> Spool:
    return Spool.open(root, budget_bytes=budget, segment_bytes=segment)


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
from gateway.spool import Spool
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


def test_what_a_dead_process_left_is_shipped_under_its_own_id(tmp_path: Path) -> None:
    redis = fakeredis.FakeRedis()
    alive, dead = open_spool(tmp_path), open_spool(tmp_path)
    dead.put(b"left behind")
    dead.close()
    shipper = Shipper(redis, alive, Metrics())
    shipper.start()
    alive.put(b"mine")
    shipper.wake()
    wait_for(lambda: redis.xlen(keys.traffic(dead.producer)))
    wait_for(lambda: redis.xlen(keys.traffic(alive.producer)))
    assert redis.smembers(keys.GATEWAYS) == {alive.producer.encode(), dead.producer.encode()}
    shipper.stop()
    alive.close()


def test_a_flushed_redis_gets_everything_that_is_retained_again(tmp_path: Path) -> None:
    redis = fakeredis.FakeRedis()
    spool = open_spool(tmp_path)
    lane = Lane(redis, spool.directory, spool.producer)
    for number in range(450):
        spool.put(b"%d" % number)
    while lane.ship() is not None:
        pass
    assert redis.xlen(keys.traffic(spool.producer)) == 450
    redis.flushall()
    while lane.ship() is not None:
        pass
    entries = redis.xrange(keys.traffic(spool.producer))
    assert [int(fields[b"r"]) for _, fields in entries] == list(range(450))
    assert redis.smembers(keys.GATEWAYS) == {spool.producer.encode()}
    spool.close()


def test_the_shipper_waits_while_nobody_consumes(tmp_path: Path) -> None:
    redis = fakeredis.FakeRedis()
    spool = open_spool(tmp_path)
    lane = Lane(redis, spool.directory, spool.producer, high_water=3)
    for number in range(5):
        spool.put(b"%d" % number)
        lane.ship()
    assert redis.xlen(keys.traffic(spool.producer)) == 3
    redis.xtrim(keys.traffic(spool.producer), maxlen=0)
    lane.ship()
    entries = redis.xrange(keys.traffic(spool.producer))
    assert [fields[b"r"] for _, fields in entries] == [b"3", b"4"]
    spool.close()


def test_a_spool_that_cannot_write_says_so(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    os.close(spool._descriptor)
    spool._descriptor = os.open(spool._path, os.O_RDONLY)
    with pytest.raises(SpoolError):
        spool.put(b"x")
    spool.close()
