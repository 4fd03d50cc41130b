"""What Redis has and what the archive has, read as one: each trajectory once, the newer of both."""

from collections.abc import Iterator

from trajectories.archive.filters import Filters
from trajectories.archive.index import digest_of
from trajectories.archive.reader import Archive
from trajectories.archive.record import Archived
from trajectories.store import Store, TrajectoryRef


def read(store: Store, archive: Archive, ref: TrajectoryRef) -> Archived | None:
    """A trajectory, from Redis if it is there and from the archive else."""
    found = store.archivable(ref)
    return Archived.of(found) if found is not None else archive.read(ref)


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
        # A conversation that came back after its keys expired is whole in the archive only.
        if archive is not None and (archive.edition(ref) or 0) > found.edition:
            continue
        hot.add(digest)
        record = Archived.of(found)
        if filters.accepts(record.head()):
            yield record, True
    if archive is None:
        return
    for record in archive.scan(filters):
        if digest_of(record.ref) not in hot:
            yield record, False
