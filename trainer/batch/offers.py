"""What is offered to a round: trajectories of the hot store and the archive, a few in memory.

First what nobody trained on: that of the hot store, oldest first; then, with
`trainer.cold`, what only the archive still has, newest first, until the round
is full. Besides, with `trainer.replay_share`, a random draw of what earlier
versions were trained on. The hot store decides about all that it knows.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from trainer.batch.samples import Selection
from trainer.runs import PLAN, RunDirectory
from trajectories.archive import Archive, Filters, Place
from trajectories.archive.index import digest_of
from trajectories.errors import ArchiveError, RecordError
from trajectories.model import Trajectory
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

READ_AT_ONCE = 32  # trajectories; two round trips to Redis
DRAWS = 3  # replayed trajectories that are looked at for each that is wanted

logger = logging.getLogger(__name__)

Offer = tuple[TrajectoryRef, Trajectory | None]  # None: gone, or not to be read


@dataclass(frozen=True, slots=True)
class Log:
    """Where trajectories come from."""

    store: Store
    archive: Archive | None  # None: the hot store alone
    runs_dir: Path

    @classmethod
    def open(cls, store: Store, settings: Settings) -> "Log":
        """As the settings say."""
        is_cold = settings.trainer.cold
        archive = Archive(Place(settings.archive_url)) if is_cold else None
        return cls(store, archive, settings.runs_dir)

    def unused(self, selection: Selection, most: int) -> Iterator[Offer]:
        """Closed, rewarded trajectories nobody trained on, `most` of them."""
        refs = self.store.trainable(selection.policy, most)
        yield from self.read(refs)
        if self.archive is not None and len(refs) < most:
            yield from self._cold(selection, most - len(refs), {str(ref) for ref in refs})

    def used(self, selection: Selection, versions: Sequence[int], most: int) -> Iterator[Offer]:
        """A random draw of what versions not too old for the round were trained on."""
        oldest = 0
        if selection.max_staleness is not None:
            oldest = selection.current - selection.max_staleness
        near = [version for version in versions if version > oldest]
        yield from self.read(self.store.draw_trained(selection.policy, near, most))

    def read(self, refs: Sequence[TrajectoryRef]) -> Iterator[Offer]:
        """These trajectories: as they stand in the hot store, else as the archive has them."""
        for start in range(0, len(refs), READ_AT_ONCE):
            some = refs[start : start + READ_AT_ONCE]
            try:
                found = self.store.trajectories(some)
            except RecordError:
                found = [_read(self.store, ref) for ref in some]
            for ref, trajectory in zip(some, found, strict=True):
                yield ref, trajectory or self._archived(ref)

    def _archived(self, ref: TrajectoryRef) -> Trajectory | None:
        if self.archive is None:
            return None
        try:
            record = self.archive.read(ref)
        except (ArchiveError, OSError) as error:
            logger.warning("a trajectory was left out: %s", error, extra={"trajectory": str(ref)})
            return None
        return None if record is None else record.trajectory

    def _cold(self, selection: Selection, most: int, offered: set[str]) -> Iterator[Offer]:
        """What only the archive has, and no round has used; nothing that was `offered` already."""
        assert self.archive is not None
        used = used_in(self.runs_dir, selection.policy)
        age = selection.max_staleness
        filters = Filters(
            tenant=selection.tenant,
            policy=selection.policy,
            agent=selection.agent,
            is_rewarded=True,
            min_version=None if age is None else selection.current - age,
        )
        try:
            for record in self.archive.scan(filters, newest_first=True):
                ref = record.ref
                if str(ref) in offered or _is_in(used, digest_of(ref)):
                    continue
                if self.store.knows(selection.policy, ref):
                    continue  # there it is decided, also whether labels are still waited for
                yield ref, record.trajectory
                most -= 1
                if not most:
                    return
        except (ArchiveError, OSError) as error:  # what was read so far is good
            logger.warning("the rest of the archive was left out: %s", error)


def used_in(runs_dir: Path, policy: str) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """Digests of what the runs on disk used or set aside, in order: 8 bytes for each.

    Rows of a run that was refused before it looked at them were not used.
    """
    found: list[int] = []
    for path in runs_dir.glob(f"*/{PLAN}"):
        plan = orjson.loads(path.read_bytes())
        if plan["policy"] == policy:
            result = RunDirectory(path.parent).result()
            is_given_back = result is not None and not (result.is_trained or result.is_tried)
            rows = () if is_given_back else (*plan["refs"], *plan.get("replayed", ()))
            refs = (*rows, *plan.get("set_aside", ()))
            found.extend(digest_of(TrajectoryRef.parse(ref)) for ref in refs)
    return np.unique(np.array(found, dtype=np.uint64))


def _is_in(digests: "np.ndarray[tuple[int], np.dtype[np.uint64]]", digest: int) -> bool:
    at = int(np.searchsorted(digests, np.uint64(digest)))
    return at < len(digests) and int(digests[at]) == digest


def _read(store: Store, ref: TrajectoryRef) -> Trajectory | None:
    """A trajectory, or None when it cannot be read: one must not stop a round."""
    try:
        return store.trajectory(ref)
    except RecordError as error:
        logger.warning("a trajectory was left out: %s", error, extra={"trajectory": str(ref)})
        return None
