"""A spool directory between two processes: whose it is, its lock, and its torn end."""

import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.spool.segments import good_length, list_segments

logger = logging.getLogger(__name__)

PRODUCER = "producer.json"


@dataclass(frozen=True, slots=True)
class Note:
    """What a spool directory says of itself: its producer's id, and the sequences given out.

    Every sequence below `reserved` may have been used.
    """

    producer: str | None
    reserved: int


def lock_directory(directory: Path) -> int | None:
    """Take a spool directory; None when a live process has it, or has just removed it.

    Returns the lock's descriptor.
    """
    path = directory / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # What was locked may be a file that its last owner has removed meanwhile.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def read_note(directory: Path) -> Note:
    """A directory's note; an empty one when it is missing or broken."""
    try:
        found = orjson.loads((directory / PRODUCER).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        found = None
    content = found if isinstance(found, dict) else {}
    producer, reserved = content.get("producer"), content.get("reserved")
    return Note(
        producer if isinstance(producer, str) else None,
        reserved if isinstance(reserved, int) else 0,
    )


def write_note(directory: Path, note: Note) -> None:
    """Replace a directory's note, durably."""
    content = {"producer": note.producer, "reserved": note.reserved}
    replace_durably(directory / PRODUCER, orjson.dumps(content))


def cut_torn_tail(directory: Path) -> None:
    """Cut the newest segment behind its last good frame."""
    segments = list_segments(directory)
    if segments:
        end = good_length(segments[-1])
        if end < segments[-1].stat().st_size:
            logger.warning("cut a torn record off the spool", extra={"segment": str(segments[-1])})
            os.truncate(segments[-1], end)


def replace_durably(path: Path, content: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:  # buffered: all of it is written, or it raises
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
