"""Erasing from the archive: segments written anew without what has to go.

The new segment is there before the old one goes, so that a kill in between
loses nothing; what has to go may then be read until it is run again. One runs
at a time: two that wrote the same segment anew would each bring back what the
other erased. Who archives something that was erased meanwhile looks for that
once it is sealed (`erase_forgotten`).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.archive.index import digest_of
from trajectories.archive.manifest import Manifest
from trajectories.archive.place import Place
from trajectories.archive.reader import Archive
from trajectories.archive.record import Archived
from trajectories.archive.writer import Writer
from trajectories.lease import Lease, hold
from trajectories.privacy.tombstones import Tombstones
from trajectories.privacy.users import users_of
from trajectories.store.refs import TrajectoryRef

Progress = Callable[[], None]


def erase(
    place: Place, redis: Redis, refs: Iterable[TrajectoryRef], *, progress: Progress = lambda: None
) -> int:
    """Erase every edition of these trajectories; returns how many rows went.

    Waits for another erasure. Raises ArchiveError on damaged files, and LeaseLost.
    """
    wanted = set(refs)
    erased = 0
    with hold(redis, keys.ERASING_LEASE, "erasure") as lease:
        for name, manifest in segments_with(place, wanted):
            erased += _rewrite(place, redis, name, manifest, wanted, lease)
            progress()
    return erased


def erase_forgotten(
    place: Place, redis: Redis, archive: Archive, sealed: Sequence[TrajectoryRef]
) -> int:
    """Erase what was forgotten while somebody had it in hand and then sealed it.

    `archive` must have seen what was sealed. Returns how many rows went.
    """
    buried_at = Tombstones(redis).buried_at([(ref.tenant, ref.id) for ref in sealed])
    forgotten = []
    for ref, at in zip(sealed, buried_at, strict=True):
        record = archive.read(ref) if at is not None else None
        if at is not None and record is not None and record.trajectory.started_at <= at:
            forgotten.append(ref)
    return erase(place, redis, forgotten) if forgotten else 0


def segments_with(place: Place, refs: Collection[TrajectoryRef]) -> list[tuple[str, Manifest]]:
    """The segments, by the name of their manifest, in which one of these may lie."""
    archive = Archive(place)
    archive.refresh()
    digests: dict[str, list[int]] = {}
    for ref in refs:
        digests.setdefault(ref.tenant, []).append(digest_of(ref))
    return [
        (name, manifest)
        for name, manifest in archive.manifests().items()
        if manifest.tenant in digests
        and any(archive.index(manifest).find(digest) for digest in digests[manifest.tenant])
    ]


def of_users(
    place: Place, tenant: str, users: Collection[str], *, progress: Progress = lambda: None
) -> set[TrajectoryRef]:
    """Archived trajectories with a call of one of these users. Reads all of the tenant's."""
    archive = Archive(place)
    archive.refresh()
    found: set[TrajectoryRef] = set()
    for manifest in archive.manifests().values():
        if manifest.tenant != tenant:
            continue
        for _, row in archive.rows(manifest):
            if is_of(Archived.from_row(row), users):
                found.add(TrajectoryRef(tenant, row["id"]))
            progress()
    return found


def is_of(record: Archived, users: Collection[str]) -> bool:
    """Whether a call of a record names one of these users."""
    steps = (*record.trajectory.transitions, *record.superseded)
    return any(user in users for step in steps for user in users_of(step.request))


def _rewrite(
    place: Place,
    redis: Redis,
    name: str,
    manifest: Manifest,
    wanted: set[TrajectoryRef],
    lease: Lease,
) -> int:
    archive = Archive(place)
    writer = Writer.with_new_fence(place, redis, format=manifest.format, guard=lease.check)
    erased = 0
    try:
        for _, row in archive.rows(manifest):
            if TrajectoryRef(row["tenant"], row["id"]) in wanted:
                erased += 1
            else:
                writer.add(Archived.from_row(row), now=_archived_at(row))
        for _ in writer.seal():
            pass
    finally:
        writer.discard()
    lease.check()
    place.delete(name)  # first: what no manifest names does not exist
    place.delete(manifest.index)
    place.delete(manifest.file)
    return erased


def _archived_at(row: dict[str, Any]) -> float:
    return float(row.get("archived_at", 0.0))
