"""`[privacy]`: what is not kept, and for how long the rest is."""

from pydantic import Field

from trajectories.settings.section import Section


class PrivacySettings(Section):
    """What is taken out of records, and when: docs/privacy.md."""

    redact_secrets: bool = Field(
        True, description="Replace keys, tokens and passwords in records before they are written"
    )
    scrub: tuple[str, ...] = Field(
        ("emails", "phones", "cards", "ibans", "ssns"),
        description="What identifies people, and is taken out before records are archived; also:"
        " ips, presidio, names of the entry point group ratchet.scrubbers",
    )
    train_on_personal: bool = Field(
        False, description="Learn from calls that the scrub would change; off: they are left out"
    )
