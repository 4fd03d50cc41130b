"""An SDK's retries: several attempts at one call, of which only the last one counts.

Pure. An SDK sends the same body again when it did not get an answer (a
time-out of its own, a broken connection), and counts in a header. Attempts
are found again by who asked what; which attempt replaced which follows from
their numbers and times alone, in whatever order their records arrived.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from trajectories.model import Outcome, Transition

WITHIN_SECONDS = 600.0  # SDKs wait 8 s at most, the time-out of a call is 10 minutes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One recorded attempt at a call."""

    started_at: float  # unix seconds
    number: int  # 0: the first
    is_complete: bool  # its whole answer was sent, as far as the gateway saw
    transition: str
    trajectory: str

    @property
    def member(self) -> str:
        """How it stands in Redis, beside its start time."""
        return f"{self.number} {int(self.is_complete)} {self.transition} {self.trajectory}"

    @classmethod
    def of(cls, transition: Transition) -> "Attempt":
        """The attempt that a transition is the record of."""
        return cls(
            transition.started_at,
            transition.attempt,
            transition.outcome is Outcome.COMPLETE,
            transition.id,
            transition.trajectory_id,
        )

    @classmethod
    def parse(cls, member: bytes, started_at: float) -> "Attempt":
        """The inverse of `member`."""
        number, is_complete, transition, trajectory = member.decode().split(" ")
        return cls(started_at, int(number), is_complete == "1", transition, trajectory)


def superseded(attempts: Iterable[Attempt]) -> list[tuple[Attempt, Attempt]]:
    """Pairs of an attempt and the retry that took its place.

    Two callers may ask the same thing at the same time. Then the retry belongs
    to the one whose answer did not arrive; where that does not tell, to none.
    """
    pairs: list[tuple[Attempt, Attempt]] = []
    left: list[Attempt] = []
    for retry in sorted(attempts, key=lambda entry: (entry.started_at, entry.transition)):
        earlier = _replaced_by(retry, left)
        if earlier is not None:
            left.remove(earlier)
            pairs.append((earlier, retry))
        left.append(retry)
    return pairs


def _replaced_by(retry: Attempt, left: list[Attempt]) -> Attempt | None:
    since = retry.started_at - WITHIN_SECONDS
    found = [entry for entry in left if entry.number < retry.number and entry.started_at >= since]
    last = max((entry.number for entry in found), default=0)
    found = [entry for entry in found if entry.number == last]
    broken = [entry for entry in found if not entry.is_complete]
    for candidates in (broken, found):
        if len(candidates) == 1:
            return candidates[0]
    return None
