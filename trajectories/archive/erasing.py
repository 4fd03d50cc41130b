"""Erasing from the archive: segments written anew without what has to go.

The new segment is there before the old one goes, so that a kill in between
loses nothing; what has to go may then be read until it is run again. It needs
no lease: its names are its own, and who archives something that was erased
meanwhile looks for that once it is sealed (`workers/archiver.py`).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from redis import Redis

from trajectories.archive.index import digest_of
from trajectories.archive.manifest import Manifest
from trajectories.archive.place import Place
from trajectories.archive.reader import Archive
from trajectories.archive.record import Archived
from trajectories.archive.writer import Writer
from trajectories.privacy.users import users_of
from trajectories.store.refs import TrajectoryRef

Progress = Callable[[], None]


def erase(
    place: Place, redis: Redis, refs: Iterable[TrajectoryRef], *, progress: Progress = lambda: None
) -> int:
    """Erase every edition of these trajectories; returns how many rows went.

    Raises ArchiveError on damaged files.
    """
    wanted = set(refs)
    erased = 0
    for name, manifest in segments_with(place, wanted):
        erased += _rewrite(place, redis, name, manifest, wanted)
        progress()
    return erased


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
    place: Place, redis: Redis, name: str, manifest: Manifest, wanted: set[TrajectoryRef]
) -> int:
    archive = Archive(place)
    writer = Writer.with_new_fence(place, redis, format=manifest.format)
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
    place.delete(name)  # first: what no manifest names does not exist
    place.delete(manifest.index)
    place.delete(manifest.file)
    return erased


def _archived_at(row: dict[str, Any]) -> float:
    return float(row.get("archived_at", 0.0))
