"""Secrets out of a transition that did not come by the gateway, such as an imported one. Pure."""

from typing import Any

from trajectories.model import Choice, Transition
from trajectories.privacy.secrets import Redactor

_NAMES = ("error", "session_id", "alternates", "task", "agent", "model", "response_id")


def redacted(transition: Transition, redactor: Redactor) -> Transition:
    """The transition without its secrets, and without token ids that spell them."""
    found = {name: getattr(transition, name) for name in _NAMES}
    cleaned = {name: redactor.clean(value) for name, value in found.items()}
    changes: dict[str, Any] = {
        name: value for name, value in cleaned.items() if value is not found[name]
    }
    request = redactor.clean(transition.request)
    if request is not transition.request:
        changes |= {"request": request, "prompt_token_ids": ()}
    choices = tuple(_choice(choice, redactor) for choice in transition.choices)
    if any(new is not old for new, old in zip(choices, transition.choices, strict=True)):
        changes["choices"] = choices
    return transition.model_copy(update=changes) if changes else transition


def _choice(choice: Choice, redactor: Redactor) -> Choice:
    message = redactor.clean(choice.message)
    if message is choice.message:
        return choice
    return choice.model_copy(update={"message": message, "token_ids": (), "logprobs": ()})
