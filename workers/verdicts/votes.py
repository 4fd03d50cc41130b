"""Opinions become votes: the one way by which a verdict enters the store.

Ids are derived from who said it, of which content, and of what, so that a job
that runs twice says one thing once. A later verdict replaces an earlier one,
and what it no longer says is withdrawn: a vote without a reward.
"""

from collections.abc import Sequence

from trajectories.ids import derived_id
from trajectories.model import Feedback, FeedbackSource, Trajectory
from trajectories.store import Store, TrajectoryRef, VerdictState
from workers.verdicts.calibration import Calibration
from workers.verdicts.opinions import NoVerdict, Opinion

Votes = tuple[tuple[str, str | None, str], ...]


def verdict_votes(
    trajectory: Trajectory,
    opinions: Sequence[Opinion],
    *,
    source: FeedbackSource,
    stamp: str,
    calibration: Calibration | None,
    at: float,
) -> list[Feedback]:
    """One vote for each opinion. Raises NoVerdict when one is of a call that had no answer."""
    responses = {transition.id: transition.response_id for transition in trajectory.transitions}
    votes = []
    for opinion in opinions:
        response_id = None
        if opinion.transition_id is not None:
            response_id = responses.get(opinion.transition_id)
            if response_id is None:
                raise NoVerdict("garbage", f"{opinion.transition_id} has no response to reward")
        value, fitted = opinion.value, 0
        metadata: dict[str, float | int | str] = {"stamp": stamp}
        if not opinion.is_calibrated:
            metadata["raw"] = opinion.value
            if calibration is not None:
                value, fitted = calibration.apply(opinion.value), calibration.version
                metadata["calibration"] = fitted
        target = response_id or trajectory.id
        votes.append(
            Feedback(
                id=derived_id(
                    "fb", trajectory.tenant, target, opinion.name, source.id, stamp, str(fitted)
                ),
                identity=derived_id("vote", target, opinion.name, source.type, source.id),
                tenant=trajectory.tenant,
                response_id=response_id,
                trajectory_id=None if response_id else trajectory.id,
                name=opinion.name,
                reward=value,
                value=value,
                comment=opinion.reason or None,
                source=source,
                metadata=metadata,
                received_at=at,
            )
        )
    return votes


def post_votes(
    store: Store,
    ref: TrajectoryRef,
    votes: Sequence[Feedback],
    earlier: VerdictState | None,
    *,
    source: FeedbackSource,
    stamp: str,
    at: float,
) -> Votes:
    """Store `votes`, withdraw what was said earlier and is not said now; returns what now holds."""
    now = {vote.identity for vote in votes}
    for identity, response_id, name in earlier.votes if earlier else ():
        if identity not in now:
            withdrawn = Feedback(
                id=derived_id("fb", ref.tenant, identity, stamp, "withdrawn"),
                identity=identity,
                tenant=ref.tenant,
                response_id=response_id,
                trajectory_id=None if response_id else ref.id,
                name=name,
                comment="withdrawn: what it was about has changed",
                source=source,
                received_at=at,
            )
            store.add_feedback(withdrawn)
    for vote in votes:
        store.add_feedback(vote)
    return tuple((vote.identity, vote.response_id, vote.name) for vote in votes)
