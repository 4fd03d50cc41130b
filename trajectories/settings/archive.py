"""`[archive]`: where trajectories are kept for good."""

from typing import Literal

from pydantic import Field

from trajectories.settings.section import Section


class ArchiveSettings(Section):
    """Where trajectories are kept for good (docs/archive.md)."""

    enabled: bool = Field(True, description="Whether `ratchet up` runs an archiver")
    url: str | None = Field(
        None,
        description="A directory or any URL of fsspec, such as `s3://bucket/ratchet`; unset:"
        " `archive` in `data_dir`",
    )
    format: Literal["jsonl.zst", "parquet"] = Field(
        "jsonl.zst", description="`jsonl.zst` or `parquet`; both are read, whichever is written"
    )
    segment_mb: float = Field(
        64, gt=0, description="A segment is sealed at this size, before compression"
    )
    roll_seconds: float = Field(300, gt=0, description="A segment is sealed at this age")
    settle_seconds: float = Field(
        30, ge=0, description="A trajectory is archived when its rewards did not change this long"
    )
    keep_days: float | None = Field(
        None, gt=0, description="Days that began longer ago are deleted; unset: none ever"
    )
