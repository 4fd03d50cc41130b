"""What Redis has and what the archive has, read as one: each trajectory once, and whole.

A conversation that came back after Redis forgot it lies in two parts until the
archiver has joined them, and again with each turn and vote that follows.
"""

from collections.abc import Iterator

from trajectories.archive.filters import Filters
from trajectories.archive.index import digest_of
from trajectories.archive.reader import Archive
from trajectories.archive.record import Archived, join
from trajectories.store import Archivable, Store, TrajectoryRef


def read(store: Store, archive: Archive, ref: TrajectoryRef) -> Archived | None:
    """A trajectory, from Redis if it is there, with what only the archive has of it."""
    found = store.archivable(ref)
    whole = None if found is None else _whole(archive, ref, found)
    return archive.read(ref) if whole is None else whole


def _whole(archive: Archive, ref: TrajectoryRef, found: Archivable) -> Archived | None:
    """What Redis and the archive have of a trajectory; None: the archive has all of it."""
    hot = Archived.of(found)
    edition = archive.edition(ref)
    is_part = found.is_joined or not found.archived or (edition or 0) > found.edition
    cold = archive.read(ref) if is_part and edition is not None else None
    if cold is None:
        return hot
    has, had = _names(hot), _names(cold)
    if had <= has and cold.edition <= hot.edition:
        return hot
    if has <= had and cold.edition >= hot.edition:
        return None
    return join(cold, hot)


def _names(record: Archived) -> set[tuple[str, float | None]]:
    """Of all that a record holds; a vote that was taken back is another than it was."""
    steps = (*record.trajectory.transitions, *record.superseded)
    votes = {(vote.id, vote.retracted_at) for vote in record.feedback}
    return votes | {(step.id, None) for step in steps}


def scan(
    store: Store, archive: Archive | None, filters: Filters | None = None
) -> Iterator[tuple[Archived, bool]]:
    """Every trajectory that is wanted, and whether it is in Redis; those in Redis first.

    In memory: 64 bits for each trajectory in Redis.
    """
    filters = filters or Filters()
    hot: set[int] = set()
    for ref in store.all_trajectories():
        if filters.tenant not in (None, ref.tenant):
            continue
        digest = digest_of(ref)
        if digest in hot:
            continue  # Redis may name a key twice while others come
        found = store.archivable(ref)
        if found is None:
            continue
        record = Archived.of(found) if archive is None else _whole(archive, ref, found)
        if record is None:
            continue
        hot.add(digest)
        if filters.accepts(record.head()):
            yield record, True
    if archive is None:
        return
    for record in archive.scan(filters):
        if digest_of(record.ref) not in hot:
            yield record, False
