"""How a sibling goes on after it called tools: by what was recorded, or not at all. Pure.

No tool is ever called. Where a sibling calls the very tools that the recorded
answer called, in their order and with the same arguments, the world stands where
it stood then, and the recorded results are what it would have been told. After
any other call nobody knows what it would have been told: there it ends.
"""

from collections.abc import Sequence
from typing import Any

from trajectories.agents import messages_of
from trajectories.model import Transition
from trajectories.tool_calls import plain_call
from workers.linking import normalise

Message = dict[str, Any]


def continued(
    asked: Sequence[Message],
    answer: Message,
    recorded: Transition,
    later: Sequence[Transition],
) -> tuple[list[Message], Transition] | None:
    """The messages to ask next, and the recorded call that asked the like; None: it ends here.

    `recorded` was asked what the sibling was, but for the ids of tool calls;
    `later` are the calls of its trajectory after it.
    """
    calls = calls_of(answer)
    known = calls_of(recorded.choices[0].message) if recorded.choices else []
    if not calls or [plain_call(call) for call in calls] != [plain_call(call) for call in known]:
        return None
    for following in later:
        results = _results(recorded, known, following)
        if results is not None:
            said = {"role": "assistant", "content": answer.get("content"), "tool_calls": calls}
            told = [
                {**result, "tool_call_id": call.get("id")}
                for call, result in zip(calls, results, strict=True)
            ]
            return [*asked, said, *told], following
    return None


def tokens_told(recorded: Transition, following: Transition) -> int:
    """How many tokens longer than prompt and answer of `recorded` the prompt after it is."""
    said = len(recorded.prompt_token_ids) + len(recorded.choices[0].token_ids)
    return max(0, len(following.prompt_token_ids) - said)


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The tool calls of a message; none where one of them is no such thing."""
    calls = message.get("tool_calls")
    found = calls if isinstance(calls, list) else []
    return found if all(isinstance(call, dict) for call in found) else []


def _results(
    recorded: Transition, known: Sequence[dict[str, Any]], following: Transition
) -> list[Message] | None:
    """What each of the `known` calls was told, if `following` asks on with that and no more."""
    before, after = messages_of(recorded), messages_of(following)
    start = len(before)
    if len(after) != start + 1 + len(known) or not _are_alike(after[:start], before):
        return None
    echo, told = after[start], after[start + 1 :]
    if [plain_call(call) for call in calls_of(echo)] != [plain_call(call) for call in known]:
        return None
    by_id = {result.get("tool_call_id"): result for result in told if result.get("role") == "tool"}
    results = [by_id.get(call.get("id")) for call in calls_of(echo)]
    found = [result for result in results if result is not None]
    is_whole = len(by_id) == len(told) == len(found) == len(known)
    return found if is_whole else None


def _are_alike(some: Sequence[Message], others: Sequence[Message]) -> bool:
    """Whether two conversations say the same, however a client writes it down."""
    return [normalise(message) for message in some] == [normalise(message) for message in others]
