"""Spool to Redis: the thread that carries records on, whatever Redis goes through.

How one directory gets into its stream is the lane's subject. Here is which
lanes run: our own, then those of directories whose process is gone.
"""

import logging
import os
import shutil
import threading
import time
from pathlib import Path

from gateway.metrics import Metrics
from gateway.spool.directory import cut_torn_tail, lock_directory, read_note
from gateway.spool.lane import Lane
from gateway.spool.segments import list_segments
from gateway.spool.writer import RETAIN_SECONDS, Spool
from trajectories.connection import Redis, RedisError
from trajectories.errors import SpoolError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.05
CHECK_SECONDS = 1.0
RETRY_SECONDS = 0.25
ADOPT_SECONDS = 10.0


class Shipper:
    """Runs the lane of our own spool, and of directories whose process is gone."""

    def __init__(self, redis: Redis, spool: Spool, metrics: Metrics) -> None:
        self._redis = redis
        self._spool = spool
        self._metrics = metrics
        self._lane = self._own_lane(sent=spool.first - 1)
        self._is_stopping = threading.Event()
        self._is_wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)
        self._corrupt = 0

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the spool."""
        if not self._is_wanted.is_set():  # asking is far cheaper than setting
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
                has_more = self._ship_own() and not self._lane.is_drained
                if not has_more and time.monotonic() >= next_adoption:
                    self._adopt()
                    next_adoption = time.monotonic() + ADOPT_SECONDS
            except RedisError as error:
                self._metrics.ship_failures.inc()
                logger.warning("Redis does not take records, they wait in the spool: %s", error)
                self._is_stopping.wait(RETRY_SECONDS)
            except (OSError, SpoolError):
                logger.exception("the spool cannot be read, or not be renamed")
                self._is_stopping.wait(CHECK_SECONDS)
            except Exception:  # the thread outlives a bug: records wait, they are not lost
                self._metrics.ship_failures.inc()
                logger.exception("a batch cannot be shipped")
                self._is_stopping.wait(CHECK_SECONDS)
            else:
                if not has_more:
                    self._is_wanted.wait(CHECK_SECONDS)
                    self._is_wanted.clear()
                    # Let a few records gather: one transaction costs as much as ten records.
                    self._is_stopping.wait(IDLE_SECONDS if not self._lane.is_held_back else 0.2)

    def _ship_own(self) -> bool:
        shipped = self._lane.ship()
        if self._lane.corrupt_segments > self._corrupt:
            self._metrics.corrupt_segments.inc(self._lane.corrupt_segments - self._corrupt)
            self._corrupt = self._lane.corrupt_segments
        if self._lane.is_shared:
            self._change_producer()
            return True
        if shipped is not None or self._lane.arrived > self._spool.shipped:
            self._spool.mark_shipped(self._lane.arrived)
        return shipped is not None

    def _own_lane(self, *, sent: int) -> Lane:
        spool = self._spool
        return Lane(self._redis, spool.directory, spool.producer, sent=sent, recent=spool.recent)

    def _change_producer(self) -> None:
        """Leave an id that somebody else writes under (a copied volume), with all our records.

        Redis took their sequences for ours. The dispatcher knows what it has seen.
        """
        shared = self._spool.producer
        self._spool.change_producer()
        self._metrics.producer_conflicts.inc()
        logger.error(
            "another gateway writes as %s (a copied data directory?): going on as %s",
            shared,
            self._spool.producer,
        )
        self._lane, self._corrupt = self._own_lane(sent=0), 0

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
        producer = read_note(directory).producer
        if producer is None:
            return
        cut_torn_tail(directory)
        lane = Lane(self._redis, directory, producer)
        while (shipped := lane.ship()) is not None and not self._is_stopping.is_set():
            self._metrics.adopted_batches.inc()
            self._ship_own()  # a large directory must not keep our own records waiting
        if shipped is not None or lane.is_held_back:
            return
        segments = list_segments(directory)
        newest = max((path.stat().st_mtime for path in segments), default=0.0)
        if time.time() - newest > RETAIN_SECONDS:
            shutil.rmtree(directory, ignore_errors=True)
