"""Manifests: one small file beside each segment, written last. What none names does not exist."""

from typing import Literal
from urllib.parse import quote

from trajectories.archive.record import SCHEMA_VERSION
from trajectories.model import Record

SUFFIX = ".manifest.json"

Format = Literal["jsonl.zst", "parquet"]


class Manifest(Record):
    """What a segment is and what lies in it. Names are relative to the archive's root."""

    schema_version: int = SCHEMA_VERSION
    format: Format
    file: str
    sha256: str
    bytes: int
    index: str
    index_sha256: str
    rows: int
    tenant: str
    date: str  # the day its trajectories began, UTC
    fence: int  # whose it is: a later writer of the archive has a higher one
    number: int  # which of that writer's segments
    first_id: str
    last_id: str
    started_from: float
    started_to: float
    updated_to: float
    min_reward: float | None = None
    max_reward: float | None = None
    written_at: float

    @property
    def order(self) -> tuple[int, int]:
        return self.fence, self.number


def directory_of(date: str, tenant: str) -> str:
    """Where the segments of a day and a tenant lie."""
    return f"date={date}/tenant={quote(tenant, safe='')}"


def segment_name(date: str, tenant: str, fence: int, number: int) -> str:
    """A segment's name without its ending: used once, by one writer."""
    return f"{directory_of(date, tenant)}/segment-{fence:08d}-{number:06d}"
