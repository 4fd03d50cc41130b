"""Writing the archive: records into drafts, drafts into segments, a manifest last.

A writer has a fence of its own, so that no two ever use one name. Killed at
any point it leaves drafts and files that no manifest names: they do not exist.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from redis import Redis

from trajectories import keys
from trajectories.archive.index import Entry, Index, digest_of
from trajectories.archive.manifest import SUFFIX, Format, Manifest, segment_name
from trajectories.archive.place import Place
from trajectories.archive.record import Archived, Head
from trajectories.archive.segments import BLOCK_BYTES, Draft, compressor, open_draft
from trajectories.store.refs import TrajectoryRef

HELD_BYTES = 64 << 20  # lines of all drafts that wait for the rest of their block


def _go_on(step: str) -> None:
    """No hook: nobody wants to know where the writer is."""


@dataclass(slots=True)
class Part:
    """What a writer has of one day and tenant."""

    date: str
    tenant: str
    draft: Draft
    waiting: list[tuple[TrajectoryRef, Head, bytes]] = field(default_factory=list)
    waiting_bytes: int = 0
    entries: list[Entry] = field(default_factory=list)
    refs: list[tuple[TrajectoryRef, int]] = field(default_factory=list)
    span: dict[str, Any] = field(default_factory=dict)

    def add(self, ref: TrajectoryRef, head: Head, line: bytes) -> None:
        self.waiting.append((ref, head, line))
        self.waiting_bytes += len(line)
        self.refs.append((ref, head["edition"]))
        self._widen(head)

    def flush(self) -> None:
        """Write what waits as one block."""
        if not self.waiting:
            return
        block = len(self.draft.blocks)
        offsets = self.draft.add([(head, line) for _, head, line in self.waiting])
        for (ref, head, _), offset in zip(self.waiting, offsets, strict=True):
            self.entries.append(Entry(digest_of(ref), head["edition"], block << 32 | offset))
        self.waiting, self.waiting_bytes = [], 0

    def _widen(self, head: Head) -> None:
        for name, value, pick in (
            ("first_id", head["id"], min),
            ("last_id", head["id"], max),
            ("started_from", head["started_at"], min),
            ("started_to", head["started_at"], max),
            ("updated_to", head["updated_at"], max),
            ("min_reward", head["reward"], min),
            ("max_reward", head["reward"], max),
        ):
            before = self.span.get(name)
            known = [entry for entry in (before, value) if entry is not None]
            self.span[name] = pick(known) if known else None


class Writer:
    """One writer's records, until `seal` makes segments of them."""

    def __init__(
        self,
        place: Place,
        fence: int,
        *,
        format: Format = "jsonl.zst",
        hook: Callable[[str], None] = _go_on,
        guard: Callable[[], None] = lambda: None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """`hook` is told each step (tests kill there); `guard` raises when we may not go on."""
        self._place = place
        self._fence = fence
        self._format = format
        self._hook = hook
        self._guard = guard
        self._block_bytes = block_bytes
        self._compressor = compressor()
        self._drafts: Path | None = None
        self._parts: dict[tuple[str, str], Part] = {}
        self._number = 0
        self.rows = 0
        self.nbytes = 0  # before compression

    @property
    def fence(self) -> int:
        """What is in all its names, and in nobody else's."""
        return self._fence

    @classmethod
    def with_new_fence(cls, place: Place, redis: Redis, **options: Any) -> Self:
        """A writer whose names nobody else uses, and nobody will."""
        fence: Any = redis.incr(keys.ARCHIVER_FENCE)
        return cls(place, int(fence), **options)

    def add(self, record: Archived, now: float | None = None) -> None:
        """Take a record; it lies in the archive once `seal` has said so."""
        now = time.time() if now is None else now
        head, line = record.head(), record.to_line(now)
        part = self._part(_date(head["started_at"]), head["tenant"])
        part.add(record.ref, head, line)
        self.rows += 1
        self.nbytes += len(line)
        if part.waiting_bytes >= self._block_bytes:
            part.flush()
        if sum(entry.waiting_bytes for entry in self._parts.values()) > HELD_BYTES:
            max(self._parts.values(), key=lambda entry: entry.waiting_bytes).flush()

    def seal(self) -> Iterator[list[tuple[TrajectoryRef, int]]]:
        """Make a segment of each part; yields whose editions lie in the archive now.

        Raises OSError or ArchiveError; what was not yielded by then is not there.
        """
        try:
            while self._parts:
                key = next(iter(self._parts))
                self._seal(self._parts[key])
                part = self._parts.pop(key)
                yield part.refs
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget what was not sealed."""
        for part in self._parts.values():
            part.draft.discard()
        self._parts = {}
        self.rows = self.nbytes = 0

    def _part(self, date: str, tenant: str) -> Part:
        found = self._parts.get((date, tenant))
        if found is None:
            self._number += 1
            if self._drafts is None:
                self._drafts = self._place.drafts(f"{self._fence:08d}")
            path = self._drafts / f"{self._number:06d}"
            draft = open_draft(path, self._format, self._compressor)
            found = self._parts[date, tenant] = Part(date, tenant, draft)
        return found

    def _seal(self, part: Part) -> None:
        self._number += 1
        name = segment_name(part.date, part.tenant, self._fence, self._number)
        self.write_segment(part, name, f"{name}{SUFFIX}")

    def write_segment(self, part: Part, name: str, manifest_name: str) -> Manifest:
        """The files of a segment, its manifest last."""
        part.flush()
        part.draft.finish()
        self._hook("drafted")
        path = part.draft.path
        size, sha256 = path.stat().st_size, _sha256(path)
        index = Index(part.entries, part.draft.blocks).to_bytes()
        self._guard()
        file, index_file = f"{name}.{self._format}", f"{name}.index"
        self._place.put(path, file, sha256)
        self._hook("stored")
        self._place.write(index_file, index)
        self._hook("indexed")
        manifest = Manifest(
            format=self._format,
            file=file,
            sha256=sha256,
            bytes=size,
            index=index_file,
            index_sha256=hashlib.sha256(index).hexdigest(),
            rows=len(part.entries),
            tenant=part.tenant,
            date=part.date,
            fence=self._fence,
            number=self._number,
            written_at=time.time(),
            **part.span,
        )
        self._guard()
        self._place.write(manifest_name, manifest.to_json())
        self._hook("named")
        return manifest


def _date(started_at: float) -> str:
    try:
        return datetime.fromtimestamp(started_at, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):  # a clock beyond any calendar
        return "1970-01-01"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
