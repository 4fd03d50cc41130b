"""`[redis]`: where the records are."""

from pydantic import Field

from trajectories.settings.section import Section


class RedisSettings(Section):
    """Where the records are."""

    url: str = Field("redis://127.0.0.1:6379/0", description="Any Redis or Valkey, 6.2 or later")
    timeout_seconds: float = Field(0.5, gt=0, description="Limit of one command")
