"""What will become of a vote in training, as far as it can be told now. Pure.

Only a forecast for the client: what a round takes is the trainer's decision
(caps on one source are counted there, over the labels of a round).
"""

from trajectories.model import Feedback, Transition

QUEUED = {"training": "queued"}


def training_of(
    vote: Feedback, transition: Transition | None, *, current: int, max_staleness: int
) -> dict[str, str]:
    """`training` and, where it is ignored, `reason`; empty while the target is not known.

    `transition` is the one that is meant, or the last of the trajectory.
    """
    if vote.reward is None and vote.correction is None:
        return _ignored("no_value" if vote.value is None else "no_range")
    if transition is None:
        return {}
    if not transition.is_trainable:
        return _ignored("opted_out")
    if transition.policy is None:
        return _ignored("policy")
    if transition.policy_version is None:
        return _ignored("mixed")
    if vote.choice is not None and all(c.index != vote.choice for c in transition.choices):
        return _ignored("choice")
    if vote.reward is None:
        return QUEUED  # a correction needs no tokens of the answer
    if not any(choice.is_aligned for choice in transition.choices):
        return _ignored("no_tokens")
    if current - transition.policy_version > max_staleness:
        return {"training": "replay_only"}
    return QUEUED


def _ignored(reason: str) -> dict[str, str]:
    return {"training": "ignored", "reason": reason}
