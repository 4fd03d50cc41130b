"""Brings what was written to the disk: a thread, as an fdatasync takes milliseconds.

It is the only one that closes a segment's descriptor. So the number of a
descriptor that waits here cannot have become another file's, or a client's.
"""

import logging
import os
import threading

logger = logging.getLogger(__name__)

SYNC_SECONDS = 0.3


class Syncer:
    """Syncs descriptors soon after they were written to."""

    def __init__(self, seconds: float = SYNC_SECONDS) -> None:
        self._seconds = seconds
        self._mutex = threading.Lock()
        self._dirty: set[int] = set()
        self._retired: set[int] = set()
        self._is_closing = threading.Event()
        self._syncing = threading.Thread(target=self._run, name="spool-sync", daemon=True)
        self._syncing.start()

    def mark(self, descriptor: int) -> None:
        """Something was written to it."""
        if descriptor in self._dirty:  # as it mostly is
            return
        with self._mutex:
            self._dirty.add(descriptor)

    def retire(self, descriptor: int) -> None:
        """Nothing more will be written to it: sync it a last time and close it."""
        with self._mutex:
            self._retired.add(descriptor)

    def close(self) -> None:
        """Sync and close what is left, and end."""
        self._is_closing.set()
        self._syncing.join()
        self.sync()

    def sync(self) -> None:
        """What the thread does in each round."""
        with self._mutex:
            retired, self._retired = self._retired, set()
            dirty, self._dirty = self._dirty - retired, set()
        for descriptor in dirty:
            if not _synced(descriptor):
                self.mark(descriptor)
        for descriptor in retired:
            _synced(descriptor)
            try:
                os.close(descriptor)
            except OSError:
                logger.exception("cannot close a segment of the spool")

    def _run(self) -> None:
        while not self._is_closing.wait(self._seconds):
            self.sync()


def _synced(descriptor: int) -> bool:
    try:
        os.fdatasync(descriptor)
    except OSError:
        logger.exception("cannot sync the spool")
        return False
    return True
