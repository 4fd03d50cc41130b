"""Writing files so that a kill or a power cut leaves the old or the new one, never half.

The trick is always the same: write beside, fsync, rename over, fsync the
directory. Everything in a run directory and an adapter directory goes
through here.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

CHUNK_BYTES = 1 << 20


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; a reader sees all of the old or all of the new."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """As `write_atomic`, line by line: what is written may be larger than memory."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb", CHUNK_BYTES) as file:
        for line in lines:
            file.write(line)
            file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries (names, renames) to disk."""
    sync_file(path)


def sync_tree(path: Path) -> None:
    """Force a directory to disk, with everything below it."""
    for entry in path.iterdir():
        if entry.is_dir():
            sync_tree(entry)
        else:
            sync_file(entry)
    sync_directory(path)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
