"""`[privacy]`: what is not kept, and for how long the rest is."""

from pydantic import Field

from trajectories.settings.section import Section


class PrivacySettings(Section):
    """What is taken out of records, and when: docs/privacy.md."""

    redact_secrets: bool = Field(
        True, description="Replace keys, tokens and passwords in records before they are written"
    )
