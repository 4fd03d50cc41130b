"""Which of several choices of a call (`n > 1`) its client went on with. Pure.

A later call says again what was asked, and then the answer that was taken: by
its token ids, or by its words and tool calls where the ids were made anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trajectories.agents import messages_of, text_of
from trajectories.model import Choice, Transition
from trajectories.tool_calls import plain_call


def taken_choices(transitions: Sequence[Transition]) -> dict[str, int | None]:
    """Of each call with several choices: id -> index of the one that was taken; None: unknown."""
    found: dict[str, int | None] = {}
    for place, transition in enumerate(transitions):
        if len(transition.choices) > 1:
            later = (_continued(transition, after) for after in transitions[place + 1 :])
            found[transition.id] = next((index for index in later if index is not None), None)
    return found


def _continued(transition: Transition, later: Transition) -> int | None:
    """The index of the choice that `later` begins with."""
    by_tokens = [choice for choice in transition.choices if _is_begun(transition, choice, later)]
    if by_tokens:  # of those that begin alike, the longest; of equal ones, the first
        return max(by_tokens, key=lambda choice: len(choice.token_ids)).index
    asked, said = messages_of(transition), messages_of(later)
    if not asked or len(said) <= len(asked) or said[: len(asked)] != asked:
        return None
    answer = said[len(asked)]
    if answer.get("role") != "assistant":
        return None
    alike = (c.index for c in transition.choices if _words(c.message) == _words(answer))
    return next(alike, None)


def _is_begun(transition: Transition, choice: Choice, later: Transition) -> bool:
    whole = transition.prompt_token_ids + choice.token_ids
    is_there = bool(transition.prompt_token_ids and choice.token_ids)
    return is_there and later.prompt_token_ids[: len(whole)] == whole


def _words(message: Mapping[str, Any]) -> list[Any]:
    """What an answer says, and which tools it calls with what."""
    calls = message.get("tool_calls")
    listed = calls if isinstance(calls, list) else []
    return [text_of(message), [plain_call(call) for call in listed]]
