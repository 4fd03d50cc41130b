"""What identifies people, taken out of a record on its way to the archive or out of the house."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.archive.record import Archived
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import Settings

Scrub = Callable[[Archived], Archived]


def scrub_with(scrubber: Scrubber) -> Scrub:
    """A scrub of whole records. It raises ScrubError where a text could not be looked at."""

    def scrub(record: Archived) -> Archived:
        if not scrubber.is_on:
            return record
        trajectory, feedback, superseded = scrubber.scrub_all(
            record.trajectory, record.feedback, record.superseded
        )
        return replace(record, trajectory=trajectory, feedback=feedback, superseded=superseded)

    return scrub


def open_scrub(settings: Settings, redis: Redis) -> Scrub:
    """The scrub that the settings ask for; asks Redis for nothing before the first record.

    Raises SettingsError for a finder that is not there.
    """
    names = settings.privacy.scrub
    is_on = Scrubber(names).is_on
    made: list[Scrub] = []

    def scrub(record: Archived) -> Archived:
        if not is_on:
            return record
        if not made:
            made.append(scrub_with(Scrubber(names, user_key=user_key(redis))))
        return made[0](record)

    return scrub


def user_key(redis: Redis) -> bytes:
    """What ids of users are hashed with in the archive; made at its first use."""
    store: Any = redis
    store.set(keys.USER_KEY, secrets.token_bytes(32), nx=True)
    return bytes(store.get(keys.USER_KEY))
