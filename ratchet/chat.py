"""Recorded calls as chat messages that other tools take: OpenAI's fields and no others. Pure."""

from collections.abc import Iterator
from typing import Any

from trajectories.archive import Archived
from trajectories.choices import taken_choices
from trajectories.model import Transition

Row = dict[str, Any]

FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "weight")


def clean(message: Row) -> Row:
    """A message without what only one engine writes, and without nulls that say nothing."""
    kept = {name: message[name] for name in FIELDS if message.get(name) is not None}
    if calls := kept.get("tool_calls"):
        kept["tool_calls"] = [
            {"id": call.get("id"), "type": "function", "function": call.get("function")}
            for call in calls
            if isinstance(call, dict)
        ]
    else:
        kept.pop("tool_calls", None)
        kept.setdefault("content", "")
    return kept


def as_message(entry: Row) -> Row:
    """`entry` with a role; what has none is an answer."""
    return {"role": "assistant", **entry}


def messages_of(step: Transition) -> list[Row]:
    """What the call sent."""
    found = step.request.get("messages")
    entries = found if isinstance(found, list) else ()
    return [clean(as_message(entry)) for entry in entries if isinstance(entry, dict)]


def answer_of(step: Transition, index: int | None) -> Row | None:
    """What the choice of that index says; None where there is none or it says nothing."""
    message = next((one.message for one in step.choices if one.index == index), None)
    return clean(as_message(message)) if message else None


def answers_taken(record: Archived) -> dict[str, int]:
    """Of each call: id -> index of the choice its client went on with, where that is known."""
    steps = record.trajectory.transitions
    found = {step.id: step.choices[0].index for step in steps if len(step.choices) == 1}
    several = taken_choices(steps)
    return found | {name: index for name, index in several.items() if index is not None}


def trained(record: Archived) -> list[Transition]:
    """The calls that may be trained on: chats that nobody opted out of."""
    return [
        step
        for step in record.trajectory.transitions
        if step.is_trainable and isinstance(step.request.get("messages"), list)
    ]


def conversations(record: Archived) -> Iterator[Row]:
    """OpenAI's fine-tuning rows of a trajectory: `messages`, and `tools` where there are any.

    One for each conversation that was not gone on with. Our own answers weigh 1
    and the client's other words of the assistant 0.
    """
    taken = answers_taken(record)
    steps = [
        (step, [*messages_of(step), answer])
        for step in trained(record)
        if (answer := answer_of(step, taken.get(step.id))) is not None
    ]
    keys = [[_key(message) for message in whole] for _, whole in steps]
    ours = {(len(own) - 1, own[-1]) for own in keys}
    for number, (step, whole) in enumerate(steps):
        own = keys[number]
        if any(later[: len(own)] == own for later in keys[number + 1 :] if len(later) > len(own)):
            continue
        yield fine_tuning_row(
            [
                {**message, "weight": int((at, own[at]) in ours)}
                if message["role"] == "assistant"
                else message
                for at, message in enumerate(whole)
            ],
            step,
        )


def fine_tuning_row(messages: list[Row], step: Transition) -> Row:
    """A row of OpenAI's chat fine-tuning format."""
    tools = step.request.get("tools")
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _key(message: Row) -> str:
    """Equal for one message as it was answered and as it was sent back."""
    calls = [
        (call["function"].get("name"), call["function"].get("arguments"))
        for call in message.get("tool_calls", ())
        if isinstance(call.get("function"), dict)
    ]
    return repr((message["role"], message.get("content") or "", calls))
