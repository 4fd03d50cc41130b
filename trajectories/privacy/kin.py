"""Siblings of what is forgotten: they quote its prompts, so they go with it."""

from collections.abc import Collection
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.archive import Archive, Place
from trajectories.archive.index import digest_of
from trajectories.rollouts import siblings_of
from trajectories.store import TrajectoryRef
from trajectories.store.packing import unpack

_PAGE = 1000


def siblings_that_may_be(
    redis: Redis, place: Place, refs: Collection[TrajectoryRef]
) -> set[TrajectoryRef]:
    """Every trajectory that a sibling of a call in these may have: their names are derived.

    Reads ids alone, so that what is broken is found as well.
    """
    client: Any = redis
    archive = Archive(place)
    found: set[TrajectoryRef] = set()
    for ref in refs:
        ids = {unpack(name) for name in client.hkeys(keys.transitions_of(ref.tenant, ref.id))}
        record = archive.read(ref)
        if record is not None:
            ids |= {step.id for step in (*record.trajectory.transitions, *record.superseded)}
        found |= {
            TrajectoryRef(ref.tenant, name) for id in ids for name in siblings_of(ref.tenant, id)
        }
    return found


def those_there(
    redis: Redis, place: Place, refs: Collection[TrajectoryRef]
) -> frozenset[TrajectoryRef]:
    """Those of them that Redis or the archive has."""
    return frozenset(_in_redis(redis, sorted(refs, key=str)) | _in_archive(place, refs))


def _in_redis(redis: Redis, refs: list[TrajectoryRef]) -> set[TrajectoryRef]:
    client: Any = redis
    found: set[TrajectoryRef] = set()
    for start in range(0, len(refs), _PAGE):
        some = refs[start : start + _PAGE]
        pipe = client.pipeline(transaction=False)
        for ref in some:
            pipe.exists(keys.trajectory(ref.tenant, ref.id))
        found |= {ref for ref, is_there in zip(some, pipe.execute(), strict=True) if is_there}
    return found


def _in_archive(place: Place, refs: Collection[TrajectoryRef]) -> set[TrajectoryRef]:
    archive = Archive(place)
    archive.refresh()
    digests = {digest_of(ref): ref for ref in refs}
    return {
        ref
        for manifest in archive.manifests().values()
        for digest, ref in digests.items()
        if manifest.tenant == ref.tenant and archive.index(manifest).find(digest)
    }
