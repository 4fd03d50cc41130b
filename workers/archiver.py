"""The archiver: closed and scored trajectories from Redis to the archive, each of their editions.

A plain process: RQ stops when Redis is full, this must not. Nothing leaves
`archiving` before a manifest names it, so it may be killed anywhere: what was
written twice is one for readers. One runs at a time; a second refuses.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from trajectories import keys
from trajectories.archive import Archive, Archived, Place, Writer
from trajectories.archive.erasing import erase_forgotten
from trajectories.archive.record import join
from trajectories.archive.scrubbing import open_scrub
from trajectories.connection import connect
from trajectories.errors import RatchetError
from trajectories.lease import Lease, LeaseHeld, LeaseLost, Renewal
from trajectories.settings import ArchiveSettings, Settings
from trajectories.store import Archivable, Store, TrajectoryRef
from workers.jobs import Scorer
from workers.retention import delete_days, sweep
from workers.timing import Timer

log = logging.getLogger(__name__)

MEGABYTE = 1 << 20
READ_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the archiver does what, in seconds. Tests use shorter ones."""

    idle: float = 1.0
    save_every: float = 600.0  # looks for what is about to expire
    save_within: float = float(keys.DAY)
    clean_every: float = 3600.0
    longest_wait: float = 30.0  # between attempts while the archive cannot be written


class Archiver:
    """One loop: read what is due, write it, seal it, note it."""

    def __init__(
        self,
        redis: Redis,
        place: Place,
        settings: ArchiveSettings,
        scorer: Scorer,
        *,
        scrub: Callable[[Archived], Archived] = lambda record: record,
        hook: Callable[[str], None] = lambda step: None,
        pace: Pace | None = None,
    ) -> None:
        """`scrub` takes out of a record what may not be kept; `hook` is told each step."""
        self._redis = redis
        self._store = Store(redis)
        self._place = place
        self._archive = Archive(place, look_seconds=float("inf"))  # `seal` looks
        self._settings = settings
        self._scorer = scorer
        self._scrub = scrub
        self._hook = hook
        self._pace = pace or Pace()
        self._lease = Lease(redis, keys.ARCHIVER_LEASE, "archiver")
        self._writer: Writer | None = None
        self._save = Timer(self._pace.save_every)
        self._clean = Timer(self._pace.clean_every)
        self._saved: set[TrajectoryRef] = set()
        self._bad: dict[TrajectoryRef, float] = {}  # and when they were scored
        self._taken: dict[TrajectoryRef, float] = {}
        self._editions: dict[tuple[TrajectoryRef, int], int] = {}  # in the archive -> in Redis
        self._joined: set[TrajectoryRef] = set()
        self._cursor = float("-inf")  # when the last one that was taken was scored
        self._began_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; what is drafted then is sealed.

        Raises LeaseHeld when another archiver runs. Redis away and an archive
        that cannot be written are waited out.
        """
        wait = self._pace.idle
        while not stop.is_set():
            try:
                self._lease.acquire()
                with self._renewing():
                    self._work(stop)
                return
            except LeaseHeld:
                raise
            except LeaseLost as error:
                log.warning("%s; what was drafted is read again", error)
            except RedisError as error:
                log.warning("Redis is away, waiting: %s", error)
            except (OSError, RatchetError) as error:
                self._note_failure(error)
            except Exception:  # the loop outlives a bug in one step
                log.exception("archiver step failed")
            finally:
                self._start_over()
                with suppress(RedisError):
                    self._lease.release()
            stop.wait(wait)
            wait = min(2 * wait, self._pace.longest_wait)

    def _work(self, stop: threading.Event) -> None:
        self._writer = Writer.with_new_fence(
            self._place,
            self._redis,
            format=self._settings.format,
            hook=self._hook,
            guard=self._lease.check,
        )
        self._erase_forgotten()  # where somebody was killed, or Redis went, before that was done
        while not stop.is_set():
            if not self.step():
                stop.wait(self._pace.idle)
        self.seal()

    def step(self) -> int:
        """One turn: take what is due, seal what is old or large; returns how many were taken."""
        self._lease.check()
        if self._save.is_due():
            self._save_expiring()
        taken = self._take()
        if self._is_full():
            self.seal()
        if self._clean.is_due():
            self._tidy()
        return taken

    def seal(self) -> None:
        """Make segments of what was taken, and note whose editions lie in the archive now."""
        writer = self._own_writer()
        self._store.note_sealing({ref for ref, _ in self._editions})
        try:
            for refs in writer.seal():
                for ref, edition in refs:
                    known = self._editions[ref, edition]
                    self._store.note_archived(ref, known, edition, is_joined=ref in self._joined)
                    self._hook("noted")
        finally:
            self._erase_forgotten()
        self._start_over(writer)

    def _erase_forgotten(self) -> None:
        """Erase what somebody asked to forget while we had it in hand (`privacy/forget.py`).

        Or while the archiver before us had it, which was killed before it looked.
        """
        sealing = self._store.sealing()
        self._archive.refresh()
        if sealing and erase_forgotten(self._place, self._redis, self._archive, sealing):
            self._archive.refresh()
        self._store.end_sealing(sealing)

    def _take(self) -> int:
        """Read trajectories that are due into drafts."""
        before = time() - self._settings.settle_seconds
        found = self._store.due_for_archive(self._cursor, before, READ_AT_ONCE)
        taken = 0
        for ref, scored_at in found:
            self._cursor = max(self._cursor, scored_at)
            if scored_at in (self._taken.get(ref), self._bad.get(ref)):
                continue
            self._taken[ref] = scored_at
            taken += 1
            if self._draft(ref, scored_at) is False:
                log.error("a trajectory expired before it was archived", extra={"ref": str(ref)})
                self._store.stop_archiving(ref)
        return taken

    def _draft(self, ref: TrajectoryRef, scored_at: float) -> bool | None:
        """Draft a trajectory: False when it is gone, None when it cannot be read or written.

        One that nobody can read must not keep the others from the archive.
        """
        try:
            archivable = self._store.archivable(ref)
            if archivable is None:
                return False
            self._add(ref, archivable)
        except (LeaseLost, RedisError, OSError):
            raise
        except Exception:
            self._bad[ref] = scored_at
            log.exception("a trajectory could not be archived", extra={"ref": str(ref)})
            self._store.count_archive_failure()
            return None
        self._bad.pop(ref, None)
        return True

    def _add(self, ref: TrajectoryRef, found: Archivable) -> None:
        """Draft one trajectory, whole: with what only the archive has of it."""
        record = Archived.of(found)
        if found.is_joined or not found.archived:
            cold = self._archive.read(ref)
            if cold == self._scrub(record):
                # Killed between the manifest and the note of it.
                self._store.note_archived(ref, found.edition, found.edition)
                return
            if cold is not None:
                record = self._rescored(join(cold, record))
                self._joined.add(ref)
        writer = self._own_writer()
        if writer.rows == 0:
            self._began_at = monotonic()
        writer.add(self._scrub(record))
        self._editions[ref, record.edition] = found.edition

    def _rescored(self, record: Archived) -> Archived:
        """With the rewards of the whole, where Redis computed those of a part."""
        rewards, outcome = self._scorer.compute(record.scorable)
        trajectory = record.trajectory.model_copy(
            update={
                "rewards": tuple(sorted(rewards, key=lambda reward: reward.id)),
                "reward": outcome.final,
                "breakdown": None if outcome.final is None else outcome.breakdown,
            }
        )
        return replace(record, trajectory=trajectory, is_labelled=outcome.is_labelled)

    def _save_expiring(self) -> None:
        """Draft what never closed, or was never scored, and will soon be gone."""
        expiring = self._store.about_to_expire(self._pace.save_within)
        self._saved &= set(expiring)
        self._store.hold(list(self._bad))  # and they are tried again
        for ref in expiring:
            if ref not in self._saved and self._draft(ref, float("-inf")):
                self._saved.add(ref)

    def _is_full(self) -> bool:
        writer = self._own_writer()
        return writer.rows > 0 and (
            writer.nbytes >= self._settings.segment_mb * MEGABYTE
            or monotonic() - self._began_at >= self._settings.roll_seconds
        )

    def _tidy(self) -> None:
        self._archive.refresh()
        fence = self._own_writer().fence
        sweep(self._place, self._archive, fence=fence, now=time())
        if self._settings.keep_days is not None:
            delete_days(self._place, self._archive, self._settings.keep_days, now=time())

    def _note_failure(self, error: Exception) -> None:
        """The archive cannot be written: say so, and let nothing expire for it."""
        log.error("the archive at %s cannot be written, trying again: %s", self._place.url, error)
        with suppress(RedisError):
            self._store.count_archive_failure()
            old = time() - keys.TRAJECTORY_TTL_SECONDS + self._pace.save_within
            due = [ref for ref, _ in self._store.due_for_archive(float("-inf"), old, 1000)]
            self._store.hold([*due, *self._store.about_to_expire(self._pace.save_within)])

    def _start_over(self, writer: Writer | None = None) -> None:
        """Forget what was taken and not noted: it is still in `archiving`."""
        if self._writer is not None and self._writer is not writer:
            with suppress(OSError):
                self._writer.discard()
        self._writer = writer
        self._cursor = float("-inf")
        self._taken = {}
        self._editions = {}
        self._joined = set()
        self._began_at = monotonic()

    def _own_writer(self) -> Writer:
        if self._writer is None:
            raise LeaseLost("the archiver has no lease")
        return self._writer

    def _renewing(self) -> "Renewal":
        return Renewal(self._lease)


def build_archiver(
    settings: Settings,
    *,
    hook: Callable[[str], None] = lambda step: None,
    pace: Pace | None = None,
    **options: Any,
) -> Archiver:
    """An archiver for these settings; does not connect yet. `options` are the file system's."""
    redis = connect(settings.redis)
    return Archiver(
        redis,
        Place(settings.archive_url, **options),
        settings.archive,
        Scorer.from_settings(
            settings.rewards,
            settings.agents,
            tenants=settings.tenants_of_policies(),
        ),
        scrub=open_scrub(settings, redis),
        hook=hook,
        pace=pace,
    )
