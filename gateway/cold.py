"""Trajectories that only the archive has, for the routes that show one.

Asked from threads, one at a time, and never by a call of a model. The file
system is opened when it is first needed.
"""

import logging
import time
from threading import Lock

from trajectories.archive import Archive, Place
from trajectories.errors import ArchiveError, SettingsError
from trajectories.model import Trajectory
from trajectories.store import TrajectoryRef

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0  # how old the list of segments may be
PATIENCE_SECONDS = 5.0  # for others who read
AWAY_SECONDS = 30.0  # how long nobody asks a file system that failed: each try may take seconds


class _AwayError(ArchiveError):
    """It failed a moment ago, which was logged then."""


class ColdReads:
    """Reads of the archive at a URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = Lock()
        self._archive: Archive | None = None
        self._away_until = float("-inf")

    def read(self, ref: TrajectoryRef) -> Trajectory | None:
        """The last edition of a trajectory, or None. Raises ArchiveError when it cannot be told."""
        self._check_answers()
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise ArchiveError("too many wait for the archive")
        try:
            self._check_answers()  # somebody else may have found out meanwhile
            if self._archive is None:
                self._archive = Archive(Place(self._url), look_seconds=LOOK_SECONDS)
            found = self._archive.read(ref)
        except _AwayError:
            raise
        except (ArchiveError, OSError, SettingsError) as error:
            if not isinstance(error, ArchiveError):  # else it is one damaged file
                self._away_until = time.monotonic() + AWAY_SECONDS
            log.error("the archive cannot be read: %s", error)  # noqa: TRY400 - it says it all
            raise ArchiveError(str(error)) from error
        finally:
            self._lock.release()
        return found.trajectory if found else None

    def _check_answers(self) -> None:
        if time.monotonic() < self._away_until:
            raise _AwayError("the archive could not be read a moment ago")
