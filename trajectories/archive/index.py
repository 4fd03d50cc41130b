"""Where in a segment each trajectory lies: 20 bytes for each, sorted, in a file of its own."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

import zstandard

from trajectories.errors import ArchiveError
from trajectories.store.refs import TrajectoryRef

MAGIC = b"RATCHIX1"


def digest_of(ref: TrajectoryRef) -> int:
    """64 bits that stand for a trajectory; a reader checks the id that it finds."""
    return int.from_bytes(blake2b(str(ref).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Entry:
    """One trajectory in a segment: a place is `block << 32 | offset in the block`."""

    digest: int
    edition: int
    place: int


class Index:
    """The entries of a segment, by digest; and its blocks, as offset and length in the file."""

    def __init__(self, entries: Iterable[Entry], blocks: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(entries, key=lambda entry: (entry.digest, entry.edition))
        self.digests = array("Q", (entry.digest for entry in ordered))
        self.editions = array("I", (entry.edition for entry in ordered))
        self.places = array("Q", (entry.place for entry in ordered))
        self._edges = array("Q", (edge for block in blocks for edge in block))

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Offset and length of each block, in bytes of the file."""
        return list(zip(self._edges[::2], self._edges[1::2], strict=True))

    @property
    def nbytes(self) -> int:
        return 20 * len(self.digests) + 8 * len(self._edges)

    def find(self, digest: int) -> Entry | None:
        """The highest edition of a trajectory here."""
        at = bisect_left(self.digests, digest + 1) - 1 if digest < 2**64 - 1 else len(self) - 1
        if at < 0 or self.digests[at] != digest:
            return None
        return Entry(digest, self.editions[at], self.places[at])

    def to_bytes(self) -> bytes:
        columns = (self.digests, self.editions, self.places, self._edges)
        lengths = array("Q", (len(self.digests), len(self._edges)))
        body = b"".join(_little(column) for column in (lengths, *columns))
        return zstandard.ZstdCompressor(write_checksum=True).compress(MAGIC + body)

    @classmethod
    def from_bytes(cls, raw: bytes, name: str) -> Self:
        """Raises ArchiveError, naming the file, when `raw` is no index."""
        try:
            body = zstandard.ZstdDecompressor().decompress(raw)
        except zstandard.ZstdError as error:
            raise ArchiveError(f"the index {name} is damaged: {error}") from error
        if body[:8] != MAGIC:
            raise ArchiveError(f"{name} is no index of the archive")
        rows, edges = _column("Q", body[8:24])
        index = cls((), ())
        at = 24
        for column, size in (
            (index.digests, 8 * rows),
            (index.editions, 4 * rows),
            (index.places, 8 * rows),
            (index._edges, 8 * edges),
        ):
            column.extend(_column(column.typecode, body[at : at + size]))
            at += size
        return index


def _little(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _column(code: str, raw: bytes) -> "array[int]":
    column = array(code)
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column
