"""Which calls nothing is learned from, because of what they say of people."""

import logging
from collections.abc import Callable

from trajectories.errors import ScrubError
from trajectories.model import Transition
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import Settings

logger = logging.getLogger(__name__)


def personal_check(settings: Settings) -> Callable[[Transition], bool] | None:
    """Whether the scrub would change a call; None: it does not matter. Raises SettingsError."""
    scrubber = Scrubber(settings.privacy.scrub)
    if settings.privacy.train_on_personal or not scrubber.is_on:
        return None

    def is_personal(transition: Transition) -> bool:
        try:
            return scrubber.has_personal(transition)
        except ScrubError as error:
            logger.warning("a call was left out: %s", error, extra={"transition": transition.id})
            return True

    return is_personal
