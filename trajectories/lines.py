"""JSON lines in files: plain, `.gz` or `.zst` by the name's ending, and on standard streams."""

import gzip
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard

from trajectories.errors import RatchetError

STANDARD = Path("-")


class LineError(RatchetError):
    """A line that is no record: says why, and what it should be."""


def row_of(line: bytes, *, most_bytes: int) -> dict[str, Any]:
    """The object that a line holds. Raises LineError."""
    if len(line) > most_bytes:
        raise LineError(f"longer than {most_bytes >> 20} MB")
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise LineError("not a JSON object")
    return row


@contextmanager
def writing(target: Path | None) -> Iterator[IO[bytes]]:
    """A stream to write to; the file appears, whole, when all was written."""
    if target is None or target == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    beside = target.with_name(f".{target.name}.part")
    try:
        with beside.open("wb") as file:
            with _packing(file, target.suffix) as stream:
                yield stream
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def reading(source: Path) -> Iterator[Iterable[bytes]]:
    """A stream of lines. Raises OSError when there is no such file."""
    if source == STANDARD:
        yield sys.stdin.buffer
        return
    with source.open("rb") as file:
        if source.suffix == ".gz":
            with gzip.open(file) as stream:
                yield stream
        elif source.suffix == ".zst":
            frames: Any = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            with io.BufferedReader(frames, 1 << 20) as stream:
                yield stream
        else:
            yield file


def _packing(file: IO[bytes], suffix: str) -> AbstractContextManager[Any]:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=file, mode="wb", mtime=0)
    if suffix == ".zst":
        return zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False)
    return nullcontext(file)
