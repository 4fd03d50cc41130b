"""The spool's files: frames, and a reader that follows them while they grow.

A frame is `length u32 | crc32 u32 | sequence u64 | payload`, little endian; the
CRC covers sequence and payload. Only the spool writes; the shipper reads.
"""

import struct
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct("<IIQ")
SUFFIX = ".seg"
BAD_SUFFIX = ".bad"
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


@dataclass(slots=True, init=False)
class Frame:
    """One record in a segment; `end` is the offset behind it."""

    sequence: int
    payload: bytes
    end: int

    def __init__(self, sequence: int, payload: bytes, end: int) -> None:
        self.sequence = sequence
        self.payload = payload
        self.end = end


def frame_header(sequence: int, payload: bytes) -> bytes:
    """What stands before a payload."""
    crc = zlib.crc32(payload, zlib.crc32(sequence.to_bytes(8, "little")))
    return HEADER.pack(len(payload), crc, sequence)


def encode_frame(sequence: int, payload: bytes) -> bytes:
    """A record as it stands in a segment."""
    return frame_header(sequence, payload) + payload


def segment_path(directory: Path, first_sequence: int) -> Path:
    return directory / f"{first_sequence:020d}{SUFFIX}"


def first_sequence(path: Path) -> int:
    return int(path.stem)


def list_segments(directory: Path) -> list[Path]:
    """The segments of a spool, oldest first."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def read_frames(path: Path, offset: int = 0) -> Generator[Frame, None, None]:
    """The good frames from `offset` on, up to the first that is torn or wrong."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        buffer = b""
        while True:
            start = 0
            while (frame := _frame_at(buffer, start, offset)) is not None:
                start += HEADER.size + len(frame.payload)
                yield frame
            offset += start
            buffer = buffer[start:]
            needed = _length_at(buffer)
            if needed is None or len(buffer) >= needed:  # not a frame, or a wrong one
                return
            more = file.read(max(_CHUNK_BYTES, needed - len(buffer)))
            if not more:
                return
            buffer += more


def _length_at(buffer: bytes) -> int | None:
    """How many bytes the first frame takes, as far as that is known; None if that cannot be."""
    if len(buffer) < HEADER.size:
        return HEADER.size
    length: int = HEADER.unpack_from(buffer)[0]
    return HEADER.size + length if length <= MAX_PAYLOAD_BYTES else None


def _frame_at(buffer: bytes, start: int, offset: int) -> Frame | None:
    """The frame at `start` if it is whole and good; `offset` is where the buffer begins."""
    if len(buffer) - start < HEADER.size:
        return None
    length, crc, sequence = HEADER.unpack_from(buffer, start)
    end = start + HEADER.size + length
    # The checksum covers the sequence, the last of the header, and the payload.
    if end > len(buffer) or zlib.crc32(memoryview(buffer)[start + 8 : end]) != crc:
        return None
    return Frame(sequence, buffer[start + HEADER.size : end], offset + end)


def good_length(path: Path) -> int:
    """Where the good frames of a segment end."""
    end = 0
    for frame in read_frames(path):
        end = frame.end
    return end


def last_sequence(path: Path) -> int:
    """The last good sequence of a segment; the one before its first when it has none."""
    return max((frame.sequence for frame in read_frames(path)), default=first_sequence(path) - 1)


def is_corrupt(path: Path, offset: int) -> bool:
    """Whether the frame at `offset` is wholly there and wrong (not just unfinished)."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(offset)
            header = file.read(HEADER.size)
    except FileNotFoundError:  # retention took it
        return False
    if len(header) < HEADER.size:
        return False
    length, _, _ = HEADER.unpack(header)
    return bool(length > MAX_PAYLOAD_BYTES or offset + HEADER.size + length <= size)


class SegmentReader:
    """Reads the records behind a sequence number, batch by batch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._after = 0
        self._path: Path | None = None
        self._offset = 0
        self._before: tuple[int, Path | None, int] = (0, None, 0)  # where the last batch began
        self.corrupt_segments = 0

    def seek(self, after: int) -> None:
        """Go on behind `after`: the last sequence that has arrived."""
        if after == self._after:
            return
        if after == self._before[0]:  # the last batch once more: no need to look for it
            self._after, self._path, self._offset = self._before
            return
        self._after = after
        earlier = [p for p in list_segments(self._directory) if first_sequence(p) <= after + 1]
        self._path = earlier[-1] if earlier else None
        self._offset = 0

    @property
    def position(self) -> int:
        """The last sequence that was read (or skipped by `seek`)."""
        return self._after

    def read(self, limit: int, limit_bytes: int) -> list[Frame]:
        """The next records, oldest first; empty when there are none yet."""
        batch: list[Frame] = []
        size = 0
        start = (self._after, self._path, self._offset)
        while len(batch) < limit and size < limit_bytes:
            if self._path is None and not self._advance():
                break
            assert self._path is not None
            found = self._read_from(self._path, limit - len(batch), limit_bytes - size)
            if not found and self._following() is not None:
                # The writer may have added to this segment before it began the next one.
                found = self._read_from(self._path, limit - len(batch), limit_bytes - size)
            if found:
                batch += found
                size += sum(len(frame.payload) for frame in found)
            elif not self._advance():
                break
        if batch:
            self._before = start
            self._after = batch[-1].sequence
        return batch

    def _read_from(self, path: Path, limit: int, limit_bytes: int) -> list[Frame]:
        found: list[Frame] = []
        size = 0
        try:
            with closing(read_frames(path, self._offset)) as frames:
                for frame in frames:
                    self._offset = frame.end
                    if frame.sequence > self._after:
                        found.append(frame)
                        size += len(frame.payload)
                    if len(found) >= limit or size >= limit_bytes:
                        break
        except FileNotFoundError:  # retention took it: everything in it had arrived
            pass
        return found

    def _advance(self) -> bool:
        """On to the next segment, if there is one."""
        following = self._following()
        if following is None:
            return False
        # A torn tail is a crash the writer survived; a wrong frame is a broken disk.
        if self._path is not None and is_corrupt(self._path, self._offset):
            self._path.rename(self._path.with_suffix(BAD_SUFFIX))
            self.corrupt_segments += 1
        self._path, self._offset = following, 0
        return True

    def _following(self) -> Path | None:
        floor = first_sequence(self._path) if self._path else -1
        later = [p for p in list_segments(self._directory) if first_sequence(p) > floor]
        return later[0] if later else None
