"""What leaves the archive: days that are over, and files that no manifest names."""

import logging
import re
from datetime import UTC, datetime, timedelta

from trajectories.archive import Archive, Place
from trajectories.archive.manifest import SUFFIX

log = logging.getLogger(__name__)

ORPHAN_SECONDS = 86_400.0  # a younger file may be somebody's who is about to name it
_SEGMENT = re.compile(r"date=[^/]+/tenant=[^/]+/segment-(\d+)-\d+[^/]*$")


def delete_days(place: Place, archive: Archive, keep_days: float, *, now: float) -> int:
    """Delete the segments of days that began more than `keep_days` ago; returns how many."""
    first_kept = (datetime.fromtimestamp(now, UTC) - timedelta(days=keep_days)).date().isoformat()
    deleted = 0
    for name, manifest in archive.manifests().items():
        if manifest.date < first_kept:
            place.delete(name)  # first: what no manifest names does not exist
            place.delete(manifest.index)
            place.delete(manifest.file)
            deleted += 1
    if deleted:
        log.info("deleted %d segments of days before %s", deleted, first_kept)
        archive.refresh()
    return deleted


def sweep(place: Place, archive: Archive, *, fence: int, now: float) -> int:
    """Delete old files that no manifest names, of writers before `fence`; returns how many."""
    named = {
        file
        for manifest in archive.manifests().values()
        for file in (manifest.file, manifest.index)
    }
    swept = 0
    for name in place.find(""):
        found = _SEGMENT.match(name)
        if found is None or name.endswith(SUFFIX) or name in named or int(found[1]) >= fence:
            continue
        if place.age_seconds(name, now) > ORPHAN_SECONDS:
            place.delete(name)
            swept += 1
    if swept:
        log.info("deleted %d files that no manifest named", swept)
    return swept
