"""Corrections: what an answer should have been, and which call it is about. Pure.

A correction comes with feedback and names its answer by response id, by step,
or not at all: then the trajectory's last call is meant. It says nothing of how
much anything was worth; that is for the vote beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.batch.samples import Correction
from trajectories.agents import messages_of
from trajectories.choices import taken_choices
from trajectories.model import Feedback, Trajectory, Transition


def corrections_of(
    trajectory: Trajectory,
    votes: Sequence[Feedback],
    is_personal: Callable[[Transition], bool] | None = None,
) -> Mapping[str, Correction]:
    """Sample id -> the last correction of it; without those that are personal.

    Of several choices it is of the one that the vote names, else of the one that was taken.
    """
    found: dict[str, Correction] = {}
    taken = taken_choices(trajectory.transitions)
    for vote in sorted(votes, key=lambda vote: vote.received_at):
        answer = answer_in(vote.correction)
        transition = _meant(trajectory, vote)
        if answer is None or transition is None or vote.retracted_at is not None:
            continue
        messages = messages_of(transition)
        if messages and not (is_personal and is_personal(_as_answered(transition, answer))):
            choice = taken.get(transition.id) if vote.choice is None else vote.choice
            found[f"{transition.id}/{choice or 0}"] = Correction(
                messages=tuple(dict(message) for message in messages),
                answer=answer,
                tools=tuple(transition.request.get("tools") or ()),
                template=transition.request.get("chat_template_kwargs") or {},
            )
    return found


def answer_in(correction: Any) -> dict[str, Any] | None:
    """The assistant's message that a correction is or holds: the first of it."""
    if isinstance(correction, str):
        return {"role": "assistant", "content": correction} if correction.strip() else None
    entries = correction if isinstance(correction, list) else [correction]
    for entry in entries:
        if isinstance(entry, dict) and entry.get("role", "assistant") == "assistant":
            return {"content": "", **entry, "role": "assistant"}
    return None


def _as_answered(transition: Transition, answer: dict[str, Any]) -> Transition:
    """The call as if the correction had been its answer."""
    choices = tuple(entry.model_copy(update={"message": answer}) for entry in transition.choices)
    return transition.model_copy(update={"choices": choices})


def _meant(trajectory: Trajectory, vote: Feedback) -> Transition | None:
    if vote.transition_id is not None:
        named = [entry for entry in trajectory.transitions if entry.id == vote.transition_id]
        return named[-1] if named else None
    if vote.response_id is not None:
        named = [e for e in trajectory.transitions if e.response_id == vote.response_id]
        return named[-1] if named else None
    return trajectory.transitions[-1] if trajectory.transitions else None
