"""Segment files: lines in blocks, as zstandard frames or as Parquet row groups.

A block is what is read to find one trajectory: some megabytes before
compression. `zstdcat` reads the one kind, DuckDB, Polars and Spark the other.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson
import zstandard

from trajectories.archive.manifest import Format, Manifest
from trajectories.archive.place import Place
from trajectories.archive.record import Head
from trajectories.errors import ArchiveError

BLOCK_BYTES = 4 << 20
LEVEL = 3
WINDOW_LOG = 23  # 8 MB: a block and more


class Draft(Protocol):
    """A segment that is being written."""

    path: Path
    blocks: list[tuple[int, int]]

    def add(self, block: list[tuple[Head, bytes]]) -> list[int]:
        """Write a block of lines; the offset of each in it."""

    def finish(self) -> None:
        """Write what is left to write, and close the file."""

    def discard(self) -> None:
        """Close and delete the file."""


def compressor() -> zstandard.ZstdCompressor:
    """One for all drafts: its tables are large."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, enable_ldm=True, window_log=WINDOW_LOG, write_checksum=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


class LinesDraft:
    """JSON lines, a zstandard frame for each block."""

    def __init__(self, path: Path, compressor: zstandard.ZstdCompressor) -> None:
        self.path = path
        self.blocks: list[tuple[int, int]] = []
        self._compressor = compressor
        self._file = path.open("wb")

    def add(self, block: list[tuple[Head, bytes]]) -> list[int]:
        offsets, at = [], 0
        for _, line in block:
            offsets.append(at)
            at += len(line) + 1
        frame = self._compressor.compress(b"".join(line + b"\n" for _, line in block))
        self.blocks.append((self._file.tell(), len(frame)))
        self._file.write(frame)
        return offsets

    def finish(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class TableDraft:
    """Parquet: the columns of a head, and the whole line as `record`; a row group a block."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = path
        self.blocks: list[tuple[int, int]] = []
        self._arrow: Any = pyarrow
        strings = pyarrow.list_(pyarrow.string())
        self._schema = pyarrow.schema(
            [
                ("tenant", pyarrow.string()),
                ("id", pyarrow.string()),
                ("edition", pyarrow.int64()),
                ("started_at", pyarrow.float64()),
                ("updated_at", pyarrow.float64()),
                ("reward", pyarrow.float64()),
                ("is_labelled", pyarrow.bool_()),
                ("agents", strings),
                ("tasks", strings),
                ("policies", strings),
                ("versions", pyarrow.list_(pyarrow.int64())),
                ("sources", strings),
                ("steps", pyarrow.int64()),
                ("record", pyarrow.large_binary()),
            ]
        )
        self._writer: Any = pyarrow.parquet.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=["tenant"],
            write_page_checksum=True,
        )

    def add(self, block: list[tuple[Head, bytes]]) -> list[int]:
        rows = [
            {**{name: head.get(name) for name in self._schema.names}, "record": line}
            for head, line in block
        ]
        table = self._arrow.Table.from_pylist(rows, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(rows))
        self.blocks.append((0, 0))
        return list(range(len(rows)))

    def finish(self) -> None:
        self._writer.close()

    def discard(self) -> None:
        self._writer.close()
        self.path.unlink(missing_ok=True)


def open_draft(path: Path, kind: Format, compressor: zstandard.ZstdCompressor) -> Draft:
    """A new segment at `path`."""
    return TableDraft(path) if kind == "parquet" else LinesDraft(path, compressor)


def read_lines(
    place: Place, manifest: Manifest, blocks: list[tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """Every line of a segment and its place, a block in memory at a time.

    Raises ArchiveError, naming the file, where it is damaged.
    """
    if manifest.format == "parquet":
        yield from _table_lines(place, manifest)
        return
    digest = hashlib.sha256()
    with _named(manifest), place.open(manifest.file) as file:
        for number, (offset, length) in enumerate(blocks):
            file.seek(offset)
            frame = file.read(length)
            digest.update(frame)
            at = 0
            for line in _block(frame).split(b"\n"):
                if line:
                    yield number << 32 | at, line
                at += len(line) + 1
    if digest.hexdigest() != manifest.sha256:
        raise damaged(manifest, "its hash is not that of its manifest")


def read_line(place: Place, manifest: Manifest, blocks: list[tuple[int, int]], at: int) -> bytes:
    """The line at one place. Raises ArchiveError where the file is damaged."""
    number, offset = at >> 32, at & 0xFFFFFFFF
    with _named(manifest):
        if manifest.format == "parquet":
            with place.open(manifest.file) as file:
                column = _parquet(file).read_row_group(number, columns=["record"])["record"]
                found: bytes = column[offset].as_py()
                return found
        start, length = blocks[number]
        block = _block(place.read(manifest.file, start, start + length))
        return block[offset : block.index(b"\n", offset)]


def parse_line(line: bytes, manifest: Manifest) -> dict[str, Any]:
    """A line as a row. Raises ArchiveError where it is none."""
    try:
        row: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise damaged(manifest, str(error)) from error
    return row


def damaged(manifest: Manifest, reason: str) -> ArchiveError:
    """The error that says which file, and what to do."""
    return ArchiveError(
        f"{manifest.file} of the archive is damaged ({' '.join(reason.split())}):"
        " put a sound copy in its place, or delete its manifest to go on without it"
    )


@contextmanager
def _named(manifest: Manifest) -> Iterator[None]:
    """Turns what libraries raise on damaged files into an error that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise damaged(manifest, "it is not there") from error
    except (zstandard.ZstdError, ValueError, IndexError) as error:  # pyarrow's are ValueErrors
        raise damaged(manifest, str(error)) from error
    except OSError as error:
        if error.errno is None:  # pyarrow's, of a file that is cut short
            raise damaged(manifest, str(error)) from error
        raise


def _block(frame: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(frame)


def _parquet(file: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)


def _table_lines(place: Place, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
    with _named(manifest), place.open(manifest.file) as file:
        table = _parquet(file)
        for number in range(table.num_row_groups):
            column = table.read_row_group(number, columns=["record"])["record"]
            for offset, line in enumerate(column.to_pylist()):
                yield number << 32 | offset, line
