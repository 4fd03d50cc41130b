"""The survey: whose people are asked, at random, so that it is known how likely that was.

Who speaks up unasked is a biased few. For a random share of the trajectories
(`rewards.ask_share`) the gateway says `x-ratchet-ask: 1`, and the application asks
its user. A keyed hash of the trajectory's id decides: all gateways that share
the seed agree, any answer can be checked afterwards, and nobody who does not
know the seed can choose an id that will be asked. Pure.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from trajectories.errors import SettingsError
from trajectories.model import Transition
from trajectories.settings import RewardSettings

_RANGE = float(1 << 64)
_SEED_BYTES = 64  # the longest key of BLAKE2b
# Whose trajectory was found afterwards, by content: each was drawn for under an id of its own.
_DRAWN_ALONE = frozenset({"new", "tool_call_id", "prefix", "text"})


@dataclass(frozen=True, slots=True)
class Survey:
    """Asks the people of `share` of all trajectories."""

    share: float
    seed: bytes

    def asks(self, trajectory_id: str) -> bool:
        """Whether the people of a trajectory are asked."""
        drawn = hashlib.blake2b(trajectory_id.encode(), digest_size=8, key=self.seed).digest()
        return int.from_bytes(drawn, "big") < self.share * _RANGE


def open_survey(settings: RewardSettings) -> Survey | None:
    """The survey that the settings want, or None. Raises SettingsError when it has no secret."""
    if not settings.ask_share:
        return None
    seed = settings.ask_seed.encode()
    if not 0 < len(seed) <= _SEED_BYTES:
        raise SettingsError(
            f"rewards.ask_seed: set a secret text of 1 to {_SEED_BYTES} bytes, the same for all"
            " gateways. Without one, whoever chooses session ids chooses who is asked"
        )
    return Survey(settings.ask_share, seed)


def is_surveyed(transitions: Iterable[Transition]) -> bool:
    """Whether somebody was asked in one of these calls."""
    return any(transition.is_asked for transition in transitions)


def propensity_of(transitions: Iterable[Transition]) -> float | None:
    """How likely it was that somebody would be asked in this trajectory; None: unknown.

    Calls that named their session share one draw, and one that goes on from a
    response by its id shares that one's. Any other was drawn for by itself,
    whatever trajectory it was found to belong to afterwards. Where a call was
    answered while nobody was asked at all, its share is 0.
    """
    calls = list(transitions)
    if all(call.ask is None for call in calls):
        return None
    together: dict[str, float] = {}
    unasked = 1.0
    for call in calls:
        share = call.ask or 0.0
        if call.session_source in _DRAWN_ALONE:
            unasked *= 1.0 - share
        elif name := call.session_id or call.task:
            together[name] = max(together.get(name, 0.0), share)
    for share in together.values():
        unasked *= 1.0 - share
    return 1.0 - unasked
