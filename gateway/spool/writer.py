"""The write-ahead spool: what was answered is on disk before its last byte leaves.

One directory per process, locked; append-only segments; one `write` a record.
It knows nothing of Redis: the shipper reads what is here and reports how far it
got. Sequences are reserved in blocks, and every start begins at the next block:
after a power cut the tail may be gone here but not in Redis, and a number used
twice would be taken for a repeat there.
"""

import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Self

from gateway.spool.directory import Note, cut_torn_tail, lock_directory, read_note, write_note
from gateway.spool.recent import Recent
from gateway.spool.segments import (
    BAD_SUFFIX,
    HEADER,
    first_sequence,
    frame_header,
    last_sequence,
    list_segments,
    segment_path,
)
from gateway.spool.syncer import Syncer
from trajectories.errors import SpoolError, SpoolFull
from trajectories.ids import new_id

BLOCK = 1 << 20
SEGMENT_BYTES = 64 * 1024 * 1024
RETAIN_SECONDS = 600
RETAIN_BYTES = 256 * 1024 * 1024
_NEARLY_FULL = 0.95
_ATTEMPTS = 3
MOST_AT_ONCE = 500  # records; two buffers each, and the kernel takes 1,024


class Spool:
    """The open spool of this process. `put` may be called from any thread."""

    def __init__(
        self, directory: Path, lock: int, *, budget_bytes: int, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.directory = directory
        self._lock_descriptor = lock
        self._budget_bytes = budget_bytes
        # Only closed segments can go: the one that is written to must not be the whole budget.
        self._segment_bytes = min(segment_bytes, max(1, budget_bytes // 4))
        self._mutex = threading.Lock()
        self.producer = read_note(directory).producer or new_id("gw")
        cut_torn_tail(directory)
        self._sizes = {path: path.stat().st_size for path in list_segments(directory)}
        self._total = sum(self._sizes.values())
        self._reserved = 0
        self._next = self._reserve()
        self.first = self._next
        self.shipped = 0
        self._path, self._descriptor = self._open_segment()
        self._earlier = self._ranges()
        self.recent = Recent(self.first - 1)
        self._is_torn = False  # the segment may end in half a frame: go on in another
        self._is_closed = False
        self._syncer = Syncer()

    @classmethod
    def open(cls, root: Path, *, budget_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> Self:
        """Take over the directory of a process that is gone, else make a new one."""
        root.mkdir(parents=True, exist_ok=True)
        for directory in sorted(path for path in root.iterdir() if path.is_dir()):
            lock = lock_directory(directory)
            if lock is not None:
                return cls(directory, lock, budget_bytes=budget_bytes, segment_bytes=segment_bytes)
        for _ in range(_ATTEMPTS):
            directory = root / new_id("spool")
            directory.mkdir(mode=0o700)
            lock = lock_directory(directory)
            if lock is not None:
                return cls(directory, lock, budget_bytes=budget_bytes, segment_bytes=segment_bytes)
        raise SpoolError(f"other processes took each new spool directory, at last {directory}")

    def put(self, payload: bytes) -> int:
        """Append one record and return its sequence. Raises SpoolFull or SpoolError."""
        with self._mutex:
            if self._is_closed:
                raise SpoolError("the spool is closed")
            try:
                return self._append(payload)
            except OSError as error:
                raise SpoolError(f"cannot write to the spool: {error}") from error

    def put_all(self, payloads: list[bytes]) -> bool:
        """Append records in one write, or none of them: False where `put` has to be used."""
        size = sum(map(len, payloads)) + HEADER.size * len(payloads)
        with self._mutex:
            if self._is_closed or not self._takes(len(payloads), size):
                return False
            try:
                self._write(payloads, size)
            except (OSError, SpoolError):
                return False
            return True

    @property
    def last(self) -> int:
        """The last sequence that was given out (`first - 1` when none was)."""
        return self._next - 1

    @property
    def unshipped(self) -> int:
        """How many records of this directory are not known to be in Redis."""
        ranges = [*self._earlier, range(self.first, self._next)]
        return sum(max(0, found.stop - max(found.start, self.shipped + 1)) for found in ranges)

    @property
    def size_bytes(self) -> int:
        return self._total

    @property
    def is_full(self) -> bool:
        """Whether the next record may be refused: rather early, as its size is not known."""
        with self._mutex:
            is_near = self.size_bytes >= _NEARLY_FULL * self._budget_bytes
            return is_near and not self._droppable(0, 0)

    def mark_shipped(self, sequence: int) -> None:
        """Everything up to `sequence` is in Redis: old segments may go."""
        with self._mutex:
            if self._is_closed:
                return  # the directory may be another process's by now
            self.shipped = sequence
            self.recent.forget(sequence)
            if len(self._sizes) == 1:
                return  # nothing but what is written to: nothing to drop
            for path in self._droppable(RETAIN_SECONDS, RETAIN_BYTES):
                self._remove(path)

    def change_producer(self) -> None:
        """Go on under a new id; everything here counts as not shipped again.

        Raises OSError or SpoolError, and changes nothing, when it cannot be noted on disk.
        """
        with self._mutex:
            if self._is_closed:
                raise SpoolError("the spool is closed")
            producer = new_id("gw")
            write_note(self.directory, Note(producer, self._reserved))
            self.producer, self.shipped = producer, 0

    def close(self) -> None:
        """Sync, and let the directory go. Nothing can be put any more."""
        with self._mutex:
            self._is_closed = True
            self._syncer.retire(self._descriptor)
            self._descriptor = -1
        self._syncer.close()
        os.close(self._lock_descriptor)

    def _append(self, payload: bytes) -> int:
        if self._next % BLOCK == 0 and self._next != self.first:
            self._next = self._reserve()
        size = HEADER.size + len(payload)
        if self._total + size > self._budget_bytes:
            self._make_room(size)
        start = self._sizes[self._path]
        if self._is_torn or (start and start + size > self._segment_bytes):
            self._rotate()
        self._write([payload], size)
        return self._next - 1

    def _takes(self, count: int, size: int) -> bool:
        """Whether so many records fit into one write, and into what is open and reserved."""
        return (
            0 < count <= MOST_AT_ONCE
            and self._total + size <= self._budget_bytes
            and self._sizes[self._path] + size <= self._segment_bytes
            and self._next + count <= self._reserved
            and not self._is_torn
        )

    def _write(self, payloads: list[bytes], size: int) -> None:
        start, sequence = self._sizes[self._path], self._next
        # In one call, and without copying a payload behind its header first.
        pieces: list[bytes] = []
        for payload in payloads:
            pieces += (frame_header(sequence, payload), payload)
            sequence += 1
        try:
            written = os.writev(self._descriptor, pieces)
        except OSError:
            self._undo(start, len(payloads))
            raise
        if written < size:
            # Half a frame would hide every later one from the reader.
            self._undo(start, len(payloads))
            raise SpoolError(f"the disk took {written} of {size} bytes")
        self._sizes[self._path] = start + size
        self._total += size
        for payload in payloads:
            self.recent.add(self._next, payload)
            self._next += 1
        self._syncer.mark(self._descriptor)

    def _undo(self, start: int, count: int) -> None:
        try:
            os.ftruncate(self._descriptor, start)
        except OSError:
            # No number must be used twice: the frames that are there may have carried them.
            self._next += count
            self._is_torn = True

    def _rotate(self) -> None:
        # Opened first: when that fails, the old segment and its descriptor are still ours.
        path, descriptor = self._open_segment()
        self._syncer.retire(self._descriptor)
        self._path, self._descriptor, self._is_torn = path, descriptor, False

    def _open_segment(self) -> tuple[Path, int]:
        path = segment_path(self.directory, self._next)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        self._sizes[path] = os.fstat(descriptor).st_size
        return path, descriptor

    def _ranges(self) -> list[range]:
        """The sequences of all segments but the newest."""
        found: list[range] = []
        for path, following in pairwise(sorted(self._sizes)):
            first, end = first_sequence(path), first_sequence(following)
            if first // BLOCK != end // BLOCK:  # a start came in between, and left numbers out
                end = last_sequence(path) + 1
            found.append(range(first, end))
        return found

    def _make_room(self, needed: int) -> None:
        if needed + self.size_bytes <= self._budget_bytes:
            return
        for path in self._droppable(0, 0):
            self._remove(path)
            if needed + self.size_bytes <= self._budget_bytes:
                return
        raise SpoolFull(f"the spool holds {self.size_bytes} of {self._budget_bytes} bytes")

    def _droppable(self, retain_seconds: float, retain_bytes: int) -> list[Path]:
        """Shipped segments that need not be kept, oldest first."""
        closed = sorted(path for path in self._sizes if path != self._path)
        starts = [first_sequence(path) for path in closed] + [first_sequence(self._path)]
        shipped = [
            path
            for path, following in zip(closed, starts[1:], strict=True)
            if self.shipped >= following - 1
        ]
        found: list[Path] = []
        kept = sum(self._sizes[path] for path in shipped)
        now = time.time()
        for path in shipped:
            kept -= self._sizes[path]
            is_young = path.exists() and now - path.stat().st_mtime < retain_seconds
            if kept < retain_bytes or is_young:
                break
            found.append(path)
        return found

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # the reader may have set it aside as corrupt
        path.with_suffix(BAD_SUFFIX).unlink(missing_ok=True)
        self._total -= self._sizes.pop(path, 0)

    def _reserve(self) -> int:
        """The first sequence of the next block, after noting on disk that it is taken."""
        reserved = read_note(self.directory).reserved
        for segment in list_segments(self.directory)[-1:]:
            # The note may be older than the newest segment on a disk that lost its tail.
            reserved = max(reserved, (first_sequence(segment) // BLOCK + 1) * BLOCK)
        start = max(reserved, BLOCK)
        write_note(self.directory, Note(self.producer, start + BLOCK))
        self._reserved = start + BLOCK
        return start
