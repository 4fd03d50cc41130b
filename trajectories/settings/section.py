"""Base of every section of the settings."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error, not silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
