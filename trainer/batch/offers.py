"""What is offered to a round: trajectories from the hot store, a few in memory at a time."""

import logging
from collections.abc import Iterator, Sequence

from trajectories.errors import RecordError
from trajectories.model import Trajectory
from trajectories.store import Store, TrajectoryRef

READ_AT_ONCE = 32  # trajectories; two round trips to Redis

logger = logging.getLogger(__name__)

Offer = tuple[TrajectoryRef, Trajectory | None]  # None: gone, or not to be read


def offered(store: Store, policy: str, most: int) -> Iterator[Offer]:
    """Closed, rewarded trajectories nobody trained on, oldest first."""
    yield from read_all(store, store.trainable(policy, most))


def read_all(store: Store, refs: Sequence[TrajectoryRef]) -> Iterator[Offer]:
    """These trajectories as they stand in Redis."""
    for start in range(0, len(refs), READ_AT_ONCE):
        some = refs[start : start + READ_AT_ONCE]
        try:
            yield from zip(some, store.trajectories(some), strict=True)
        except RecordError:
            for ref in some:
                yield ref, _read(store, ref)


def _read(store: Store, ref: TrajectoryRef) -> Trajectory | None:
    """A trajectory, or None when it cannot be read: one must not stop a round."""
    try:
        return store.trajectory(ref)
    except RecordError as error:
        logger.warning("a trajectory was left out: %s", error, extra={"trajectory": str(ref)})
        return None
