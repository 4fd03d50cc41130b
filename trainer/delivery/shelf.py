"""The shelf of whole models: each is as large as the base, so only the last few stay on disk.

Kept are the version that serves, candidates, those it was preceded by up to
`trainer.full_kept` in all, and the last one that was rejected, for inspection.
With a version goes what its training left: moments, and weights in float32.
The registry is told first, so that nobody goes back to what is gone; whatever it
calls gone is looked for each time, as a kill may have come in between.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainer.runs import TRAINED
from trajectories.registry import Registry, Snapshot
from trajectories.resources import Kind, PolicyVersion, VersionState

logger = logging.getLogger(__name__)

KEPT_STATES = frozenset({VersionState.CURRENT, VersionState.CANDIDATE})


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where whole models and their runs are, and how many stay."""

    runs_dir: Path
    versions_dir: Path
    kept: int  # the current one among them

    def clear(self, registry: Registry) -> None:
        """Remove what nobody goes back to."""
        for entry in superfluous(registry.snapshot(), self.kept):
            registry.move(entry.version, entry.state, path=None)
        for entry in registry.snapshot().versions.values():
            if entry.kind is Kind.FULL and entry.version and entry.path is None:
                self._remove(entry)

    def _remove(self, entry: PolicyVersion) -> None:
        gone = [self.versions_dir / entry.model]
        if entry.run_id is not None:
            gone.append(self.runs_dir / entry.run_id / TRAINED)
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
                logger.info("removed from disk", extra={"path": str(path)})


def superfluous(snapshot: Snapshot, kept: int) -> list[PolicyVersion]:
    """Whole models on disk that are not to stay, oldest first."""
    own = [e for e in snapshot.versions.values() if e.kind is Kind.FULL and e.path is not None]
    stays = {entry.version for entry in own if entry.state in KEPT_STATES}
    served = [e for e in own if e.version not in stays and e.promoted_at is not None]
    served.sort(key=lambda entry: entry.promoted_at or 0.0)
    stays |= {entry.version for entry in served[-(kept - 1) :]}
    rejected = sorted(e.version for e in own if e.state is VersionState.REJECTED)
    stays |= set(rejected[-1:])
    return sorted((e for e in own if e.version not in stays), key=lambda entry: entry.version)
