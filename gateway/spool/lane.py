"""One spool directory on its way into one stream of Redis, batch by batch.

Entry ids are the spool's sequences, so Redis itself refuses repeats and says
how far it got; before each batch we ask it. That one question covers a fresh
start, a lost reply, a roll-back and a flush. A batch is one MULTI/EXEC: at the
memory limit a plain pipeline would leave holes.
"""

import asyncio
from pathlib import Path

from redis import WatchError

from gateway.spool.payload import is_shippable, shipped
from gateway.spool.recent import Recent
from gateway.spool.segments import Frame, SegmentReader
from gateway.spool.stream import Progress, TrafficStream
from trajectories import keys
from trajectories.connection import AsyncRedis
from trajectories.privacy.secrets import NO_REDACTION, Redactor

BATCH = 1000
BATCH_BYTES = 2 * 1024 * 1024
HIGH_WATER = 50_000  # entries not consumed yet; beyond it records wait on our disk


class Lane:
    """Carries the records of one directory to one stream.

    `sent` is the last sequence that can be in Redis when nobody but us writes
    under this id; without it that is not looked after (an abandoned directory).
    """

    def __init__(
        self,
        redis: AsyncRedis,
        directory: Path,
        producer: str,
        *,
        sent: int | None = None,
        recent: Recent | None = None,
        high_water: int = HIGH_WATER,
        redactor: Redactor = NO_REDACTION,
    ) -> None:
        self._redis = redis
        self._stream = TrafficStream(redis, keys.traffic(producer))
        self._producer = producer
        self._reader = SegmentReader(directory)
        self._recent = recent
        self._high_water = high_water
        self._redactor = redactor
        self._sent = sent
        self._tried: set[int] = set()  # last sequences of batches that were not answered
        self._arrived: int | None = None
        self.is_held_back = False
        self.is_drained = False  # the last batch was all there was
        self.is_shared = False  # somebody else writes under our id: nothing is sent any more

    async def ship(self) -> int | None:
        """Send one batch; the last sequence known to be in Redis, None if nothing was to do.

        Raises RedisError when Redis did not take it; call again later.
        """
        try:
            return await self._ship()
        except WatchError:
            # Trimmed, flushed or written to since we asked, so nothing was taken: ask again.
            return self.arrived

    async def close(self) -> None:
        """Let its connection go."""
        await self._stream.close()

    @property
    def arrived(self) -> int:
        """The last sequence Redis was known to hold."""
        return self._arrived or 0

    @property
    def corrupt_segments(self) -> int:
        return self._reader.corrupt_segments

    async def _ship(self) -> int | None:
        arrived, length = await self._progress()
        if not self._is_ours(arrived):
            self.is_shared = True
            return None
        if self._arrived is None or arrived == 0:
            await self._redis.sadd(keys.GATEWAYS, self._producer)
        self._arrived = arrived
        self.is_held_back = length >= self._high_water
        frames = [] if self.is_held_back else await self._read(arrived)
        size = sum(len(frame.payload) for frame in frames)
        self.is_drained = len(frames) < BATCH and size < BATCH_BYTES
        if not frames:
            return None
        await self._send(frames)
        return self._arrived

    async def _progress(self) -> Progress:
        return await self._stream.progress()

    async def _read(self, after: int) -> list[Frame]:
        """The next records, from memory if all of them are there."""
        if self._recent is not None:
            found = self._recent.after(after, BATCH, BATCH_BYTES)
            if found is not None:
                return found
        return await asyncio.to_thread(self._read_segments, after)

    def _read_segments(self, after: int) -> list[Frame]:
        self._reader.seek(after)
        return self._reader.read(BATCH, BATCH_BYTES)

    async def _send(self, frames: list[Frame]) -> None:
        last = frames[-1].sequence
        self._tried.add(last)
        await self._stream.add(await _records(frames, self._redactor))
        self._note_sent(last)
        self._arrived = last

    def _is_ours(self, arrived: int) -> bool:
        """Whether what Redis holds can have come from here."""
        if arrived in self._tried:  # only the answer was lost
            self._note_sent(arrived)
        return self._sent is None or arrived <= self._sent

    def _note_sent(self, sequence: int) -> None:
        self._tried.clear()
        if self._sent is not None:
            self._sent = max(self._sent, sequence)


async def _records(frames: list[Frame], redactor: Redactor) -> list[tuple[int, bytes]]:
    """The batch as it goes to Redis; streams that have to be folded first are, in a thread."""
    if all(is_shippable(frame.payload) for frame in frames):
        return [(frame.sequence, frame.payload) for frame in frames]
    return await asyncio.to_thread(
        lambda: [(frame.sequence, shipped(frame.payload, redactor)) for frame in frames]
    )
