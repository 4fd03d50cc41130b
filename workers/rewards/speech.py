"""What people said in a request: the user's own words, apart from what programs write.

Pure. Frameworks put much into messages of the role `user`: observations,
reminders, other agents' turns, documents. Only what looks like a person's own
words is taken, since signals about people must never fire on a program.
"""

import re
from dataclasses import dataclass
from typing import Any

from workers.rewards.turns import dicts, messages_of, text_of

PEOPLE = frozenset({"user", "human", "customer", "client", "me"})  # as the `name` of a message
LONGEST = 2000  # characters; nobody types more, and openings are what is looked at
_MACHINE = re.compile(
    r"\W*(observation|tool|function|execution|exit code|results?|output|stdout|stderr|errors?"
    r"|traceback|validation errors?|call id|system|assistant|context|document)s?\b[^\n]{0,40}:"
    r"|[<\[{|#]|```|https?://",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back to an answer under the role `user`."""

    answer: str  # as the client sent it back, stripped
    text: str
    is_persons: bool  # False: a framework's or another agent's words


def reply_in(request: dict[str, Any]) -> Reply | None:
    """The user messages with which a request ends, and the answer that they follow."""
    said: list[dict[str, Any]] = []
    for message in reversed(messages_of(request)):
        if not isinstance(message, dict):
            return None
        role = message.get("role")
        if role == "user":
            said.append(message)
        elif role == "assistant" and said:
            answer = text_of(message.get("content")).strip()
            return _reply(answer, said[::-1]) if answer else None
        elif role not in ("system", "developer"):
            return None
    return None


def _reply(answer: str, said: list[dict[str, Any]]) -> Reply:
    words = [words_of(message) for message in said]
    persons = [text for text in words if text is not None]
    if len(persons) == len(words):
        return Reply(answer, "\n".join(persons), True)
    return Reply(answer, "\n".join(text_of(message.get("content")) for message in said), False)


def ends_with_words(request: dict[str, Any]) -> bool:
    """Whether the last message of a request is a person's."""
    messages = messages_of(request)
    if not messages:
        return isinstance(request.get("input"), str)
    last = messages[-1]
    return isinstance(last, dict) and last.get("role") == "user" and words_of(last) is not None


def last_words(request: dict[str, Any]) -> str | None:
    """What the user said last in a request, perhaps some turns ago."""
    for message in reversed(messages_of(request)):
        if isinstance(message, dict) and message.get("role") == "user":
            words = words_of(message)
            if words is not None:
                return words
    words_alone = request.get("input")
    return words_alone if isinstance(words_alone, str) else None


def words_of(message: dict[str, Any]) -> str | None:
    """A user message's text, or None when a program wrote it or another agent did."""
    name = message.get("name")
    if isinstance(name, str) and name.casefold() not in PEOPLE:
        return None
    content = message.get("content")
    if isinstance(content, list):
        if any(part.get("type") == "tool_result" for part in dicts(content)):
            return None
        kept = [text for part in dicts(content) if not is_machine(text := text_of([part]))]
        text = "\n".join(text for text in kept if text)
    else:
        text = text_of(content)
    text = text.strip()
    return text if text and len(text) <= LONGEST and not is_machine(text) else None


def is_machine(text: str) -> bool:
    """Whether a text begins as programs do: `Observation:`, a tag, JSON, a code block."""
    return _MACHINE.match(text.lstrip()) is not None
