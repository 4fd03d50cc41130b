"""Spool to Redis: in order, once, and nothing lost to a flush, a copy or a stop."""

import asyncio
import inspect
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from gateway.metrics import Metrics
from gateway.recorder import Recorder
from gateway.spool.lane import BATCH_BYTES, Lane
from gateway.spool.segments import SegmentReader, list_segments
from gateway.spool.shipper import Shipper
from gateway.spool.stream import Progress
from gateway.spool.writer import Spool
from tests.gateway.conftest import open_spool, shipping_client
from trajectories import keys
from trajectories.connection import AsyncRedis, connect_async
from trajectories.settings import RedisSettings


def pair() -> tuple[fakeredis.FakeRedis, AsyncRedis]:
    """One fake Redis: to look at, and to ship to."""
    redis = fakeredis.FakeRedis()
    return redis, shipping_client(redis)


def shipped(redis: Any, producer: str) -> list[bytes]:
    return [fields[b"r"] for _, fields in redis.xrange(keys.traffic(producer))]


async def test_what_a_dead_process_left_is_shipped_under_its_own_id(tmp_path: Path) -> None:
    redis, shipping = pair()
    alive, dead = open_spool(tmp_path), open_spool(tmp_path)
    dead.put(b"left behind")
    dead.close()
    shipper = Shipper(shipping, alive, Metrics())
    shipper.start()
    alive.put(b"mine")
    await until(lambda: redis.xlen(keys.traffic(dead.producer)))
    await until(lambda: redis.xlen(keys.traffic(alive.producer)))
    assert redis.smembers(keys.GATEWAYS) == {alive.producer.encode(), dead.producer.encode()}
    await shipper.stop()
    alive.close()


async def test_a_flushed_redis_gets_everything_that_is_retained_again(tmp_path: Path) -> None:
    redis, shipping = pair()
    spool = open_spool(tmp_path)
    lane = Lane(shipping, spool.directory, spool.producer)
    for number in range(450):
        spool.put(b"%d" % number)
    while await lane.ship() is not None:
        pass
    assert redis.xlen(keys.traffic(spool.producer)) == 450
    redis.flushall()
    while await lane.ship() is not None:
        pass
    entries = redis.xrange(keys.traffic(spool.producer))
    assert [int(fields[b"r"]) for _, fields in entries] == list(range(450))
    assert redis.smembers(keys.GATEWAYS) == {spool.producer.encode()}
    spool.close()


async def test_the_shipper_waits_while_nobody_consumes(tmp_path: Path) -> None:
    redis, shipping = pair()
    spool = open_spool(tmp_path)
    lane = Lane(shipping, spool.directory, spool.producer, high_water=3)
    for number in range(5):
        spool.put(b"%d" % number)
        await lane.ship()
    assert redis.xlen(keys.traffic(spool.producer)) == 3
    redis.xtrim(keys.traffic(spool.producer), maxlen=0)
    await lane.ship()
    entries = redis.xrange(keys.traffic(spool.producer))
    assert [fields[b"r"] for _, fields in entries] == [b"3", b"4"]
    spool.close()


async def test_a_stop_in_the_middle_of_an_adoption_deletes_nothing(tmp_path: Path) -> None:
    redis, shipping = pair()
    alive, dead = open_spool(tmp_path), open_spool(tmp_path)
    for number in range(3_000):
        dead.put(b"%d" % number)
    dead.close()
    for segment in list_segments(dead.directory):
        os.utime(segment, (0, 0))  # old enough to be removed once it is shipped
    shipper = Shipper(shipping, alive, Metrics())
    shipper._is_stopping = True
    await shipper._adopt()
    assert len(shipped(redis, dead.producer)) < 3_000
    assert dead.directory.exists()
    again = Shipper(shipping, alive, Metrics())
    await again._adopt()
    assert len(shipped(redis, dead.producer)) == 3_000
    assert not dead.directory.exists()
    alive.close()


async def test_our_own_records_do_not_wait_for_a_large_adoption(tmp_path: Path) -> None:
    redis, shipping = pair()
    alive, dead = open_spool(tmp_path), open_spool(tmp_path)
    for number in range(1_000):
        dead.put(b"%d" % number)
    dead.close()
    alive.put(b"mine")
    await Shipper(shipping, alive, Metrics())._adopt()
    assert shipped(redis, alive.producer) == [b"mine"]
    alive.close()


async def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    """Wait until `condition` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        await asyncio.sleep(0.01)


class Interrupted(Lane):
    """Something happens to the stream between the question and the batch, once."""

    def __init__(self, *args: Any, event: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._event = event

    async def _progress(self) -> Progress:
        found = await super()._progress()
        event, self._event = self._event, lambda: None
        if inspect.isawaitable(waiting := event()):
            await waiting
        return found


async def test_a_flush_between_question_and_batch_is_noticed(tmp_path: Path) -> None:
    redis, shipping = pair()
    spool = open_spool(tmp_path)
    spool.put(b"1")
    assert await Lane(shipping, spool.directory, spool.producer).ship()
    spool.put(b"2")
    lane = Interrupted(shipping, spool.directory, spool.producer, event=redis.flushall)
    while await lane.ship() is not None:
        pass
    assert shipped(redis, spool.producer) == [b"1", b"2"]
    spool.close()


async def test_a_trim_between_question_and_batch_is_no_failure(tmp_path: Path) -> None:
    redis, shipping = pair()
    spool = open_spool(tmp_path)
    stream = keys.traffic(spool.producer)
    spool.put(b"1")
    assert await Lane(shipping, spool.directory, spool.producer).ship()
    spool.put(b"2")
    lane = Interrupted(
        shipping,
        spool.directory,
        spool.producer,
        sent=spool.last,
        event=lambda: redis.xtrim(stream, maxlen=0, approximate=False),
    )
    while await lane.ship() is not None:
        pass
    assert shipped(redis, spool.producer) == [b"2"]
    assert not lane.is_shared
    spool.close()


def copied(spool: Spool, root: Path) -> Spool:
    """A second gateway on a copy of the volume."""
    shutil.copytree(spool.directory, root / spool.directory.name)
    return open_spool(root)


async def test_a_copied_data_directory_loses_no_record(tmp_path: Path) -> None:
    redis, shipping = pair()
    first = open_spool(tmp_path / "a")
    first.put(b"before")
    first.close()
    second = copied(first, tmp_path / "b")
    first = open_spool(tmp_path / "a")
    assert first.producer == second.producer
    metrics = Metrics()
    one, two = Shipper(shipping, first, Metrics()), Shipper(shipping, second, metrics)
    first.put(b"one")
    second.put(b"two")
    while await one._ship_own():
        pass
    while await two._ship_own():
        pass
    assert shipped(redis, first.producer) == [b"before", b"one"]
    assert shipped(redis, second.producer) == [b"before", b"two"]
    assert second.producer != first.producer
    assert b"ratchet_producer_conflicts_total 1.0" in metrics.render()
    assert second.unshipped == 0
    renamed = second.producer
    first.close()
    second.close()
    again = open_spool(tmp_path / "b")
    assert again.producer == renamed
    again.close()


async def test_two_copies_that_write_at_the_same_time_lose_no_record(tmp_path: Path) -> None:
    redis, shipping = pair()
    first = open_spool(tmp_path / "a")
    first.close()
    second = copied(first, tmp_path / "b")
    first = open_spool(tmp_path / "a")
    for number in range(9):
        first.put(b"%d" % number)
    second.put(b"x")
    stream, other = second.producer, Lane(shipping, second.directory, second.producer)
    lane = Interrupted(
        shipping, first.directory, first.producer, sent=first.first - 1, event=other.ship
    )
    while await lane.ship() is not None:
        pass
    assert shipped(redis, stream) == [b"x"]
    assert lane.is_shared, "nine were tried, one arrived, and it was none of ours"
    first.close()
    second.close()


async def test_a_lost_answer_is_not_taken_for_another_writer(tmp_path: Path) -> None:
    class Lossy(Lane):
        is_answered = True

        def _note_sent(self, sequence: int) -> None:
            if not self.is_answered:
                raise ConnectionError
            super()._note_sent(sequence)

    redis, shipping = pair()
    spool = open_spool(tmp_path)
    lane = Lossy(shipping, spool.directory, spool.producer, sent=spool.first - 1)
    for number in range(3):
        spool.put(b"%d" % number)
        lane.is_answered = False
        with pytest.raises(ConnectionError):
            await lane.ship()
        lane.is_answered = True
        assert await lane.ship() is None
    assert not lane.is_shared
    assert shipped(redis, spool.producer) == [b"0", b"1", b"2"]
    spool.close()


async def test_a_batch_that_failed_is_found_again_without_a_search(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(6):
        spool.put(b"%d" % number)
    reader = SegmentReader(spool.directory)
    reader.seek(0)
    arrived = reader.read(2, 1 << 20)[-1].sequence
    reader.read(2, 1 << 20)
    offset = reader._before[2]
    assert offset > 0
    reader.seek(arrived)
    assert reader._offset == offset
    assert [frame.payload for frame in reader.read(9, 1 << 20)] == [b"2", b"3", b"4", b"5"]
    spool.close()


async def test_large_records_are_shipped_one_batch_behind_the_other(tmp_path: Path) -> None:
    """A batch that its bytes have ended is not the last: nobody waits between the two."""
    spool = open_spool(tmp_path)
    lane = Lane(pair()[1], spool.directory, spool.producer, recent=spool.recent)
    for _ in range(3):
        spool.put(b"t" + b"x" * (BATCH_BYTES - 100))
    found = []
    while await lane.ship() is not None:
        found.append(lane.is_drained)
    assert found[0] is False
    assert lane.is_drained
    assert lane.arrived == spool.last
    spool.close()


async def test_a_burst_is_shipped_from_memory_before_it_falls_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis, shipping = pair()
    spool = open_spool(tmp_path, budget=1 << 26, segment=1 << 25)
    shipper = Shipper(shipping, spool, Metrics())
    recorder = Recorder(spool, Metrics(), is_required=False, hurry=shipper.hurry)
    shipper.start()
    await until(lambda: shipper._lane.is_drained)
    for wait in ("LOOK_SECONDS", "CHECK_SECONDS"):  # so that only being hurried makes it look
        monkeypatch.setattr(f"gateway.spool.shipper.{wait}", 60.0)
    await asyncio.sleep(1.2)  # the wait that had begun
    payload = b"t" + b"x" * 100_000
    for number in range(25):
        recorder.record(f"tr_{number}", lambda: payload)
    await until(lambda: redis.xlen(keys.traffic(spool.producer)) == 25)
    await shipper.stop()
    spool.close()


async def test_a_burst_does_not_hurry_what_redis_refuses(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, budget=1 << 28, segment=1 << 26)
    gone = connect_async(RedisSettings(url="redis://127.0.0.1:9/0"))
    shipper = Shipper(gone, spool, metrics := Metrics())
    recorder = Recorder(spool, metrics, is_required=False, hurry=shipper.hurry)
    shipper.start()
    for number in range(100):
        recorder.record(f"tr_{number}", lambda: b"t" + b"x" * 100_000)
        await asyncio.sleep(0.01)
    failures = metrics.registry.get_sample_value("ratchet_ship_failures_total")
    assert 1 <= failures <= 6
    await shipper.stop(0.1)
    spool.close()


async def test_an_empty_spool_is_asked_about_once_a_second(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    shipper = Shipper(pair()[1], spool, Metrics())
    assert shipper._has_news(), "Redis may hold more than we know"
    assert not shipper._has_news()
    spool.put(b"1")
    assert shipper._has_news()
    spool.close()
