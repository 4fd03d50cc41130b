"""Votes to rewards: what clients said, as named floats.

Pure. Each vote that stands (`trajectories.standing`) and carries a value becomes one reward, on a
transition (intermediate) or on the trajectory (final). Which of them count in
the end is `compose`'s business.
"""

from collections.abc import Iterable

from trajectories.choices import taken_choices
from trajectories.ids import derived_id
from trajectories.model import Feedback, FeedbackSource, Reward, Trajectory
from trajectories.standing import standing_votes

PREFIX = "feedback:"


def feedback_rewards(trajectory: Trajectory, votes: Iterable[Feedback]) -> list[Reward]:
    """One reward for each vote with a value, in the order of their ids.

    Only votes that stand count. A vote on a transition that has expired, or that a retry
    replaced, is left out: what it was about is gone; so is one on a choice that there is not.
    A vote on the choice that was taken is one on the call. The id is made of the vote's own
    id, so that a changed mind is another reward and a replay is not.
    """
    rewards = []
    calls = {transition.id: transition for transition in trajectory.transitions}
    taken = taken_choices(trajectory.transitions)
    for vote in standing_votes(trajectory.transitions, votes):
        if vote.reward is None:
            continue
        choice = None
        if vote.choice is not None:
            call = calls[vote.transition_id or ""]
            if vote.choice not in {entry.index for entry in call.choices}:
                continue
            is_taken = len(call.choices) == 1 or vote.choice == taken.get(call.id)
            choice = None if is_taken else vote.choice
        source = source_name(vote.source)
        parts = (trajectory.id, vote.transition_id or "", vote.name, source, vote.id)
        rewards.append(
            Reward(
                id=derived_id("rw", *parts),
                trajectory_id=trajectory.id,
                transition_id=vote.transition_id,
                choice=choice,
                name=vote.name,
                source=source,
                value=vote.reward,
                reason=vote.comment or "",
                feedback=vote.id,
            )
        )
    return sorted(rewards, key=lambda reward: reward.id)


def source_name(source: FeedbackSource) -> str:
    """`feedback:human`, or `feedback:human:reviewer-7` when the source has a name of its own.

    The trainer caps the share of one source in a round, so the name has to survive.
    """
    return f"{PREFIX}{source.type}" + ("" if source.id == "default" else f":{source.id}")
