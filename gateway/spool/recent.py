"""The newest records, still in memory: what is shipped at once need not be read back.

Written under the spool's lock, read by the shipper. When it is behind,
the oldest fall out here, and are read from their segments.
"""

from collections import deque

from gateway.spool.segments import Frame

LIMIT_BYTES = 8 * 1024 * 1024


class Recent:
    """Records behind `start`, the last sequence that is not here."""

    def __init__(self, start: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self._start = start
        self._limit_bytes = limit_bytes
        self._frames: deque[Frame] = deque()
        self._size = 0

    @property
    def size_bytes(self) -> int:
        """Of the records that are here."""
        return self._size

    def add(self, sequence: int, payload: bytes) -> None:
        """The next record."""
        self._frames.append(Frame(sequence, payload, 0))
        self._size += len(payload)
        while self._size > self._limit_bytes:
            self._drop()

    def after(self, sequence: int, limit: int, limit_bytes: int) -> list[Frame] | None:
        """The records behind `sequence`, oldest first; None when some of them are not here."""
        if sequence < self._start:
            return None
        found: list[Frame] = []
        size = 0
        # A copy is one step of the interpreter: nothing can be added in the middle of it.
        for frame in list(self._frames):
            if frame.sequence > sequence:
                found.append(frame)
                size += len(frame.payload)
                if len(found) >= limit or size >= limit_bytes:
                    break
        # What fell out while we looked has been dropped from the front.
        return found if sequence >= self._start else None

    def forget(self, sequence: int) -> None:
        """Everything up to `sequence` has arrived."""
        while self._frames and self._frames[0].sequence <= sequence:
            self._drop()

    def _drop(self) -> None:
        oldest = self._frames[0]
        self._start = oldest.sequence  # first: who reads in between must see that it is gone
        self._frames.popleft()
        self._size -= len(oldest.payload)
