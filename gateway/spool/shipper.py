"""Spool to Redis: the task that carries records on, whatever Redis goes through.

How one directory gets into its stream is the lane's subject. Here is which
lanes run: our own, then those of directories whose process is gone.

It runs on the event loop that serves. A thread would be woken each time the
loop lets go of the interpreter's lock, several times a request, to find it
taken again; what has to be done for a batch is cheaper than that.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

from gateway.metrics import Metrics
from gateway.spool.directory import cut_torn_tail, lock_directory, read_note
from gateway.spool.lane import Lane
from gateway.spool.segments import list_segments
from gateway.spool.writer import RETAIN_SECONDS, Spool
from trajectories.connection import AsyncRedis, RedisError
from trajectories.errors import SpoolError
from trajectories.privacy.secrets import NO_REDACTION, Redactor

logger = logging.getLogger(__name__)

# A batch costs as much as twenty records, and a look at an empty spool is not for nothing either.
LOOK_SECONDS = 0.25  # unless somebody hurries it
STOPPING_SECONDS = 0.02
CHECK_SECONDS = 1.0  # with nothing to ship: Redis may have lost what it had
RETRY_SECONDS = 0.25
ADOPT_SECONDS = 10.0


class Shipper:
    """Runs the lane of our own spool, and of directories whose process is gone."""

    def __init__(
        self,
        redis: AsyncRedis,
        spool: Spool,
        metrics: Metrics,
        redactor: Redactor = NO_REDACTION,
    ) -> None:
        self._redis = redis
        self._spool = spool
        self._metrics = metrics
        self._redactor = redactor
        self._lane = self._own_lane(sent=spool.first - 1)
        self._is_stopping = self._is_looking = False
        self._is_wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._asked_at = self._next_adoption = self._last_moment = 0.0
        self._corrupt = 0

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.create_task(self._run(), name="shipper")

    def hurry(self) -> None:
        """There is a batch full of records: do not wait for the next look. Of the loop only."""
        if self._is_looking and not self._lane.is_held_back:
            self._is_wanted.set()

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Ship what is there if Redis takes it in time, then end."""
        task, self._task = self._task, None
        if task is None:
            return
        self._last_moment = time.monotonic() + grace_seconds
        self._is_stopping = True
        self._is_wanted.set()
        await asyncio.wait([task], timeout=2 * grace_seconds)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with contextlib.suppress(RedisError, OSError):
            await self._lane.close()
            await self._redis.aclose()

    async def _run(self) -> None:
        while not self._is_stopping or self._has_time_to_ship():
            if not await self._step():
                await self._wait_for_a_look()

    def _has_time_to_ship(self) -> bool:
        return bool(self._spool.unshipped) and time.monotonic() < self._last_moment

    async def _step(self) -> bool:
        """Ship a batch, or do what is to do beside that; whether to go on at once."""
        try:
            if self._has_news() and await self._ship_own() and not self._lane.is_drained:
                return True
            if time.monotonic() >= self._next_adoption:
                await self._adopt()
                self._next_adoption = time.monotonic() + ADOPT_SECONDS
        except RedisError as error:
            self._metrics.ship_failures.inc()
            logger.warning("Redis does not take records, they wait in the spool: %s", error)
            await self._pause(RETRY_SECONDS)
        except (OSError, SpoolError):
            logger.exception("the spool cannot be read, or not be renamed")
            await self._pause(CHECK_SECONDS)
        except Exception:  # it outlives a bug: records wait, they are not lost
            self._metrics.ship_failures.inc()
            logger.exception("a batch cannot be shipped")
            await self._pause(CHECK_SECONDS)
        return False

    async def _pause(self, seconds: float) -> None:
        """After a failure: nobody hurries this."""
        await asyncio.sleep(STOPPING_SECONDS if self._is_stopping else seconds)

    async def _wait_for_a_look(self) -> None:
        if self._is_stopping:
            await asyncio.sleep(STOPPING_SECONDS)
            return
        self._is_wanted.clear()
        self._is_looking = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._is_wanted.wait()
        self._is_looking = False

    def _has_news(self) -> bool:
        """Whether Redis has to be asked: for something new, or once in a while."""
        now = time.monotonic()
        if not self._spool.unshipped and now - self._asked_at < CHECK_SECONDS:
            return False
        self._asked_at = now
        return True

    async def _ship_own(self) -> bool:
        shipped = await self._lane.ship()
        if self._lane.corrupt_segments > self._corrupt:
            self._metrics.corrupt_segments.inc(self._lane.corrupt_segments - self._corrupt)
            self._corrupt = self._lane.corrupt_segments
        if self._lane.is_shared:
            await self._change_producer()
            return True
        if shipped is not None or self._lane.arrived > self._spool.shipped:
            self._spool.mark_shipped(self._lane.arrived)
        return shipped is not None

    def _own_lane(self, *, sent: int) -> Lane:
        spool = self._spool
        return Lane(
            self._redis,
            spool.directory,
            spool.producer,
            sent=sent,
            recent=spool.recent,
            redactor=self._redactor,
        )

    async def _change_producer(self) -> None:
        """Leave an id that somebody else writes under (a copied volume), with all our records.

        Redis took their sequences for ours. The dispatcher knows what it has seen.
        """
        shared = self._spool.producer
        await asyncio.to_thread(self._spool.change_producer)
        self._metrics.producer_conflicts.inc()
        logger.error(
            "another gateway writes as %s (a copied data directory?): going on as %s",
            shared,
            self._spool.producer,
        )
        await self._lane.close()
        self._lane, self._corrupt = self._own_lane(sent=0), 0

    async def _adopt(self) -> None:
        """Ship what dead processes left behind, under their own ids."""
        for directory in sorted(self._spool.directory.parent.iterdir()):
            if not directory.is_dir() or directory == self._spool.directory:
                continue
            lock = lock_directory(directory)
            if lock is None:
                continue
            try:
                await self._ship_abandoned(directory)
            finally:
                os.close(lock)

    async def _ship_abandoned(self, directory: Path) -> None:
        producer = read_note(directory).producer
        if producer is None:
            return
        await asyncio.to_thread(cut_torn_tail, directory)
        lane = Lane(self._redis, directory, producer, redactor=self._redactor)
        try:
            while (shipped := await lane.ship()) is not None and not self._is_stopping:
                self._metrics.adopted_batches.inc()
                await self._ship_own()  # a large directory must not keep our own records waiting
        finally:
            await lane.close()
        if shipped is not None or lane.is_held_back:
            return
        segments = list_segments(directory)
        newest = max((path.stat().st_mtime for path in segments), default=0.0)
        if time.time() - newest > RETAIN_SECONDS:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
