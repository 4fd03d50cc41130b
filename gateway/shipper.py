"""Spool to Redis: the thread that carries records on, whatever Redis goes through.

Entry ids are the spool's sequences, so Redis itself refuses repeats and says
how far it got; before each batch we ask it. That one question covers a fresh
start, a lost reply, a roll-back and a flush. A batch is one MULTI/EXEC: at the
memory limit a plain pipeline would leave holes.
"""

import logging
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from gateway.metrics import Metrics
from gateway.segments import SegmentReader, list_segments
from gateway.spool import RETAIN_SECONDS, Spool
from gateway.spool_directory import cut_torn_tail, lock_directory, producer_of
from trajectories import keys
from trajectories.connection import Redis, RedisError

logger = logging.getLogger(__name__)

BATCH = 200
BATCH_BYTES = 4 * 1024 * 1024
HIGH_WATER = 50_000  # entries not consumed yet; beyond it records wait on our disk
IDLE_SECONDS = 0.05
CHECK_SECONDS = 1.0
RETRY_SECONDS = 0.25
ADOPT_SECONDS = 10.0


class Lane:
    """One spool directory on its way into one stream."""

    def __init__(
        self, redis: Redis, directory: Path, producer: str, *, high_water: int = HIGH_WATER
    ) -> None:
        self._redis = redis
        self._stream = keys.traffic(producer)
        self._producer = producer
        self._reader = SegmentReader(directory)
        self._high_water = high_water
        self._arrived: int | None = None
        self.is_held_back = False

    def ship(self) -> int | None:
        """Send one batch; the last sequence known to be in Redis, None if nothing was to do.

        Raises RedisError when Redis did not take it; call again later.
        """
        arrived, length = self._progress()
        if arrived != self._arrived:
            if self._arrived is None or arrived == 0:
                self._redis.sadd(keys.GATEWAYS, self._producer)
            self._reader.seek(arrived)
            self._arrived = arrived
        self.is_held_back = length >= self._high_water
        if self.is_held_back:
            return None
        frames = self._reader.read(BATCH, BATCH_BYTES)
        if not frames:
            return None
        self._arrived = None  # unknown until Redis has answered
        pipe = self._redis.pipeline(transaction=True)
        for frame in frames:
            pipe.xadd(self._stream, {"r": frame.payload}, id=f"{frame.sequence}-0")
        pipe.execute()
        self._arrived = frames[-1].sequence
        return self._arrived

    @property
    def arrived(self) -> int:
        """The last sequence Redis is known to hold."""
        return self._arrived or 0

    @property
    def corrupt_segments(self) -> int:
        return self._reader.corrupt_segments

    def _progress(self) -> tuple[int, int]:
        if not self._redis.exists(self._stream):
            return 0, 0
        found: dict[str, Any] = self._redis.xinfo_stream(self._stream)
        last = found["last-generated-id"]
        text = last.decode() if isinstance(last, bytes) else str(last)
        return int(text.partition("-")[0]), int(found["length"])


class Shipper:
    """Runs the lane of our own spool, and of directories whose process is gone."""

    def __init__(self, redis: Redis, spool: Spool, metrics: Metrics) -> None:
        self._redis = redis
        self._spool = spool
        self._metrics = metrics
        self._lane = Lane(redis, spool.directory, spool.producer)
        self._is_stopping = threading.Event()
        self._is_wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._corrupt = 0

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the spool."""
        self._is_wanted.set()

    def stop(self, grace_seconds: float = 2.0) -> None:
        """Ship what is there if Redis takes it in time, then end."""
        deadline = time.monotonic() + grace_seconds
        while self._spool.unshipped and time.monotonic() < deadline and self._thread.is_alive():
            self._is_wanted.set()
            time.sleep(0.02)
        self._is_stopping.set()
        self._is_wanted.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        next_adoption = 0.0
        while not self._is_stopping.is_set():
            try:
                has_shipped = self._ship_own()
                if not has_shipped and time.monotonic() >= next_adoption:
                    self._adopt()
                    next_adoption = time.monotonic() + ADOPT_SECONDS
            except RedisError as error:
                self._metrics.ship_failures.inc()
                logger.warning("Redis does not take records, they wait in the spool: %s", error)
                self._is_stopping.wait(RETRY_SECONDS)
            except OSError:
                logger.exception("cannot read the spool")
                self._is_stopping.wait(CHECK_SECONDS)
            else:
                if not has_shipped:
                    self._is_wanted.wait(CHECK_SECONDS)
                    self._is_wanted.clear()
                    # Let a few records gather: one transaction costs as much as ten records.
                    self._is_stopping.wait(IDLE_SECONDS if not self._lane.is_held_back else 0.2)

    def _ship_own(self) -> bool:
        shipped = self._lane.ship()
        if self._lane.corrupt_segments > self._corrupt:
            self._metrics.corrupt_segments.inc(self._lane.corrupt_segments - self._corrupt)
            self._corrupt = self._lane.corrupt_segments
        if shipped is not None or self._lane.arrived > self._spool.shipped:
            self._spool.mark_shipped(self._lane.arrived)
        return shipped is not None

    def _adopt(self) -> None:
        """Ship what dead processes left behind, under their own ids."""
        for directory in sorted(self._spool.directory.parent.iterdir()):
            if not directory.is_dir() or directory == self._spool.directory:
                continue
            lock = lock_directory(directory)
            if lock is None:
                continue
            try:
                self._ship_abandoned(directory)
            finally:
                os.close(lock)

    def _ship_abandoned(self, directory: Path) -> None:
        producer = producer_of(directory)
        if producer is None:
            return
        cut_torn_tail(directory)
        lane = Lane(self._redis, directory, producer)
        while not self._is_stopping.is_set() and lane.ship() is not None:
            self._metrics.adopted_batches.inc()
        segments = list_segments(directory)
        newest = max((path.stat().st_mtime for path in segments), default=0.0)
        if not lane.is_held_back and time.time() - newest > RETAIN_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)
