"""Reading the archive: one trajectory, or all that are wanted, each once.

What is kept in memory is a line for each segment, and 20 bytes for each
trajectory whose segment was looked into lately. Records pass one by one.
"""

import hashlib
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trajectories.archive.filters import Filters
from trajectories.archive.index import Entry, Index, digest_of
from trajectories.archive.manifest import SUFFIX, Manifest
from trajectories.archive.place import Place
from trajectories.archive.record import Archived
from trajectories.archive.segments import damaged, parse_line, read_line, read_lines
from trajectories.errors import ArchiveError, RecordError
from trajectories.store.refs import TrajectoryRef

INDEX_BYTES = 256 << 20  # of indexes kept in memory: 13 million trajectories
LOOK_SECONDS = 5.0  # how old a listing may be

Found = TypeVar("Found")
Spot = tuple[int, tuple[int, int], int]  # edition, order of the segment, place in it


class Archive:
    """What lies at a place. Not for several threads at once."""

    def __init__(self, place: Place, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._place = place
        self._look_seconds = look_seconds
        self._looked_at = float("-inf")
        self._manifests: dict[str, tuple[str, Manifest]] = {}
        self._by_tenant: dict[str, list[Manifest]] = {}
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        self._index_bytes = 0

    def refresh(self) -> None:
        """See what was written by others since."""
        found = self._place.find(SUFFIX)
        known = self._manifests
        self._manifests = {}
        for name, mark in found.items():
            before = known.get(name)
            if before is not None and before[0] == mark:
                self._manifests[name] = before
                continue
            try:
                manifest = Manifest.from_json(self._place.read(name))
            except FileNotFoundError:
                continue  # deleted just now
            except RecordError as error:
                raise ArchiveError(f"{name} is no manifest of the archive: {error}") from error
            self._manifests[name] = (mark, manifest)
        self._by_tenant = {}
        for name in sorted(self._manifests):
            manifest = self._manifests[name][1]
            self._by_tenant.setdefault(manifest.tenant, []).append(manifest)
        self._looked_at = time.monotonic()

    def manifests(self) -> dict[str, Manifest]:
        """All segments by the name of their manifest, in the order of names."""
        self._look()
        return {name: self._manifests[name][1] for name in sorted(self._manifests)}

    def read(self, ref: TrajectoryRef) -> Archived | None:
        """The last edition of a trajectory, or None. Raises ArchiveError on damaged files."""
        return self._again_if_gone(lambda: self._read(ref))

    def edition(self, ref: TrajectoryRef) -> int | None:
        """Which edition of a trajectory lies here, or None."""
        found = self._again_if_gone(lambda: self._find(ref))
        return None if found is None else found[1].edition

    def _again_if_gone(self, look: Callable[[], Found]) -> Found:
        """Segments are written anew when something is erased, and old days deleted."""
        try:
            return look()
        except (ArchiveError, FileNotFoundError):
            self.refresh()
            return look()

    def _read(self, ref: TrajectoryRef) -> Archived | None:
        found = self._find(ref)
        if found is None:
            return None
        manifest, entry = found
        blocks = self.index(manifest).blocks
        row = parse_line(read_line(self._place, manifest, blocks, entry.place), manifest)
        record = _record(row, manifest)
        return record if record.ref == ref else None

    def scan(
        self, filters: Filters | None = None, *, newest_first: bool = False
    ) -> Iterator[Archived]:
        """The last edition of every trajectory that is wanted, tenant by tenant.

        Segments in the order of the days on which their trajectories began, or the other way.
        """
        filters = filters or Filters()
        self._look()
        for tenant, manifests in self._by_tenant.items():
            if filters.tenant not in (None, tenant):
                continue
            last = self._repeated(manifests)
            for manifest in reversed(manifests) if newest_first else manifests:
                if filters.may_accept(manifest):
                    yield from self._scan_segment(manifest, filters, last)

    def rows(self, manifest: Manifest) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every row of one segment and its place, repeated ones too."""
        blocks = self.index(manifest).blocks
        for place, line in read_lines(self._place, manifest, blocks):
            yield place, parse_line(line, manifest)

    def index(self, manifest: Manifest) -> Index:
        """The index of a segment. Raises ArchiveError when it is damaged."""
        found = self._indexes.get(manifest.index)
        if found is not None:
            self._indexes.move_to_end(manifest.index)
            return found
        try:
            raw = self._place.read(manifest.index)
        except FileNotFoundError as error:
            raise damaged(manifest, "its index is not there") from error
        if hashlib.sha256(raw).hexdigest() != manifest.index_sha256:
            raise damaged(manifest, "the hash of its index is not that of its manifest")
        index = Index.from_bytes(raw, manifest.index)
        self._indexes[manifest.index] = index
        self._index_bytes += index.nbytes
        while self._index_bytes > INDEX_BYTES and len(self._indexes) > 1:
            _, dropped = self._indexes.popitem(last=False)
            self._index_bytes -= dropped.nbytes
        return index

    def _look(self) -> None:
        if time.monotonic() - self._looked_at >= self._look_seconds:
            self.refresh()

    def _scan_segment(
        self, manifest: Manifest, filters: Filters, last: dict[int, Spot]
    ) -> Iterator[Archived]:
        for place, row in self.rows(manifest):
            if not filters.accepts(row):
                continue
            if last:
                spot = last.get(digest_of(TrajectoryRef(row["tenant"], row["id"])))
                if spot is not None and spot != (row["edition"], manifest.order, place):
                    continue
            yield _record(row, manifest)

    def _find(self, ref: TrajectoryRef) -> tuple[Manifest, Entry] | None:
        digest = digest_of(ref)
        best: tuple[int, tuple[int, int]] = (-1, (-1, -1))
        found = None
        self._look()
        for manifest in self._by_tenant.get(ref.tenant, ()):
            if not manifest.first_id <= ref.id <= manifest.last_id:
                continue
            entry = self.index(manifest).find(digest)
            if entry is not None and (entry.edition, manifest.order) > best:
                best, found = (entry.edition, manifest.order), (manifest, entry)
        return found

    def _repeated(self, manifests: list[Manifest]) -> dict[int, Spot]:
        """Where the last edition of each trajectory lies that was written more than once."""
        columns = [_spots(self.index(manifest), manifest.order) for manifest in manifests]
        last: dict[int, Spot] = {}
        before: tuple[int, Spot] | None = None
        for digest, spot in heapq.merge(*columns):
            if before is not None and before[0] == digest:
                last[digest] = spot  # they come in the order of their editions
            before = (digest, spot)
        return last


def _spots(index: Index, order: tuple[int, int]) -> Iterator[tuple[int, Spot]]:
    for digest, edition, place in zip(index.digests, index.editions, index.places, strict=True):
        yield digest, (edition, order, place)


def _record(row: dict[str, Any], manifest: Manifest) -> Archived:
    try:
        return Archived.from_row(row)
    except RecordError as error:
        raise damaged(manifest, str(error)) from error
