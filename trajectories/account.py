"""What the store keeps of a scored trajectory besides its rewards. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trajectories.composition import Outcome
from trajectories.labels import Labels, labels_of, waited_until
from trajectories.model import Feedback, Reward, Trajectory
from trajectories.tally import tally_of


@dataclass(frozen=True, slots=True)
class Account:
    """Whose trainers may want it, how far its labels are, what it counts for."""

    policies: tuple[str, ...]
    labels: Labels = Labels.CLOSED
    waited_until: float = 0.0  # unix seconds; no round uses it before
    tally: Mapping[str, float] = field(default_factory=dict)


def account_of(
    trajectory: Trajectory,
    votes: Sequence[Feedback],
    rewards: Sequence[Reward],
    outcome: Outcome,
    *,
    windows: Mapping[str, float],
    now: float,
    foreign: Collection[str] = (),
    verdicts: Collection[str] = (),
    verdicts_until: float = 0.0,
) -> Account:
    """The account of a trajectory at `now`, in unix seconds; `windows` as in labels.py.

    `foreign` are policies that learn from another tenant's traffic, even if they answered;
    `verdicts` names who is asked after closing, and `verdicts_until` says until when
    (unix seconds) a verdict that is still out is waited for.
    """
    is_judged = verdicts_until <= now
    if trajectory.rollout is not None:
        windows = {}  # no user was there to say any of that
    return Account(
        policies=tuple(policy for policy in trajectory.policies if policy not in foreign),
        labels=labels_of(trajectory, votes, windows, now, verdicts)
        if is_judged
        else Labels.PENDING,
        waited_until=max(waited_until(trajectory, votes, windows), verdicts_until),
        tally=tally_of(
            trajectory,
            votes,
            rewards,
            final=outcome.final,
            is_labelled=outcome.is_labelled,
        ),
    )
