"""Label windows: until when words are waited for, and which of them came late. Pure.

A trajectory closes when nothing has happened in it for `rewards.label_window_seconds`.
Some metrics take longer: whether a ticket was opened again is known after days.
While the window of a metric that was not said yet is open, the reward is
`pending` and no round uses it; then it is `closed`. A vote that comes after that
is `late`: the reward is computed anew, the trajectory is not opened again.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from trajectories.model import Feedback, Trajectory


class Labels(StrEnum):
    """How far the labels of a trajectory are."""

    PENDING = "pending"
    CLOSED = "closed"
    LATE = "late"


def waited_until(
    trajectory: Trajectory, votes: Iterable[Feedback], windows: Mapping[str, float]
) -> float:
    """Unix seconds until which some metric is still waited for.

    `windows` are seconds after the last transition, by metric. A metric that was
    said is not waited for.
    """
    said = {vote.name for vote in votes if vote.reward is not None}
    open_for = [seconds for name, seconds in windows.items() if name not in said]
    return trajectory.updated_at + max(open_for, default=0.0)


def labels_of(
    trajectory: Trajectory,
    votes: Iterable[Feedback],
    windows: Mapping[str, float],
    now: float,
    verdicts: Collection[str] = (),
) -> Labels:
    """How far the labels of a trajectory are at `now`.

    `verdicts` names the judges and programs that are asked once it is closed:
    what they say is never late.
    """
    votes = list(votes)
    if not trajectory.is_closed or waited_until(trajectory, votes, windows) > now:
        return Labels.PENDING
    closed_at = closing_time(trajectory, votes)
    if closed_at is None:
        return Labels.CLOSED
    over_at = max(closed_at, trajectory.updated_at + max(windows.values(), default=0.0))
    is_late = any(
        vote.reward is not None and vote.received_at > over_at and not _is_asked(vote, verdicts)
        for vote in votes
    )
    return Labels.LATE if is_late else Labels.CLOSED


def _is_asked(vote: Feedback, verdicts: Collection[str]) -> bool:
    return vote.source.type in ("judge", "code") and vote.source.id in verdicts


def closing_time(trajectory: Trajectory, votes: Iterable[Feedback]) -> float | None:
    """When it closed: by the first vote that said so, in whatever order they came, or by itself."""
    said = [
        vote.received_at
        for vote in votes
        if vote.is_final and vote.received_at >= trajectory.updated_at
    ]
    if trajectory.closed_at is not None:
        said.append(trajectory.closed_at)
    return min(said, default=None)
