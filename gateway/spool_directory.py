"""A spool directory between two processes: whose it is, its lock, and its torn end."""

import fcntl
import logging
import os
from pathlib import Path

import orjson

from gateway.segments import good_length, list_segments

logger = logging.getLogger(__name__)

PRODUCER = "producer.json"


def lock_directory(directory: Path) -> int | None:
    """Take a spool directory; None when a live process has it. Returns the lock's descriptor."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def producer_of(directory: Path) -> str | None:
    """The producer id a directory belongs to; None when it is not a whole spool."""
    try:
        producer = orjson.loads((directory / PRODUCER).read_bytes())["producer"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return producer if isinstance(producer, str) else None


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
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
