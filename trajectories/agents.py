"""Which agent made which call, where the client did not say: read from what a team tells itself.

Pure. Some clients put the agent's name on its system prompt. In a group chat
each agent is shown what the others said, as messages with a `name`, and its own
words as role `assistant`. So a named message whose text is an answer of ours
tells who gave that answer, and an agent goes by one name for as long as its own
words or its system prompt are the same. Nothing is stored: the same transitions
give the same names in whatever order they came.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trajectories.model import Transition


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, stripped: its content, or the text parts of its content."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and _is_text(part)]
        content = "\n".join(part["text"] for part in parts)
    return content.strip() if isinstance(content, str) else ""


def _is_text(part: dict[str, Any]) -> bool:
    is_kind = str(part.get("type", "text")).endswith("text")  # "input_text", "output_text"
    return is_kind and isinstance(part.get("text"), str)


def messages_of(transition: Transition) -> list[dict[str, Any]]:
    """The messages of a request, those that can be read."""
    messages = transition.request.get("messages")
    entries = messages if isinstance(messages, list) else ()
    return [entry for entry in entries if isinstance(entry, dict)]


def name_agents(transitions: Sequence[Transition]) -> tuple[Transition, ...]:
    """The transitions of one trajectory, with `agent` filled in where it can be told."""
    told = _told(transitions)
    if not told or all(transition.agent is not None for transition in transitions):
        return tuple(transitions)
    authors = _authors(transitions)
    names: dict[str, str] = {}
    for transition in transitions:
        if name := transition.agent or _signed(transition):
            names[transition.id] = name
    for text, speakers in told.items():
        if text in authors and len(speakers) == 1:
            names.setdefault(authors[text], next(iter(speakers)))
    sure = dict(names)
    for transition in transitions:
        words = _own_words(transition)
        own = {name for text in words if (name := sure.get(authors.get(text, "")))}
        if len(own) == 1:
            names.setdefault(transition.id, own.pop())
    by_prompt = _by_prompt(transitions, names)
    named = []
    for transition in transitions:
        name = names.get(transition.id) or by_prompt.get(_system_prompt(transition))
        is_new = name is not None and transition.agent is None
        named.append(transition.model_copy(update={"agent": name}) if is_new else transition)
    return tuple(named)


def _by_prompt(transitions: Iterable[Transition], names: dict[str, str]) -> dict[str, str]:
    """System prompt -> the one agent that has it; agents may also share one."""
    known: dict[str, set[str]] = defaultdict(set)
    others: dict[str, set[str]] = defaultdict(set)
    for transition in transitions:
        prompt = _system_prompt(transition)
        if transition.id in names:
            known[prompt].add(names[transition.id])
        shown = (message.get("name") for message in messages_of(transition) if _is_users(message))
        others[prompt].update(name for name in shown if isinstance(name, str))
    return {
        prompt: next(iter(found))
        for prompt, found in known.items()
        if len(found) == 1 and not found & others[prompt]
    }


def _is_users(message: dict[str, Any]) -> bool:
    return message.get("role") == "user"


def _told(transitions: Iterable[Transition]) -> dict[str, set[str]]:
    """Text -> the names it was shown under."""
    told: dict[str, set[str]] = defaultdict(set)
    for transition in transitions:
        for message in messages_of(transition):
            name = message.get("name")
            if isinstance(name, str) and name and message.get("role") != "tool":
                told[text_of(message)].add(name)
    return told


def _authors(transitions: Iterable[Transition]) -> dict[str, str]:
    """Text -> the one transition that answered it; what several answered is left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for transition in transitions:
        for choice in transition.choices:
            if text := text_of(choice.message):
                found[text].add(transition.id)
    return {text: next(iter(ids)) for text, ids in found.items() if len(ids) == 1}


def _own_words(transition: Transition) -> Iterator[str]:
    """What a team shows to the caller as its own words; nothing where no one has a name."""
    messages = messages_of(transition)
    if any(message.get("name") and _is_users(message) for message in messages):
        yield from (text_of(entry) for entry in messages if entry.get("role") == "assistant")


def _system_prompts(transition: Transition) -> Iterator[dict[str, Any]]:
    messages = messages_of(transition)
    return (message for message in messages if message.get("role") in ("system", "developer"))


def _system_prompt(transition: Transition) -> str:
    return "\n".join(text_of(message) for message in _system_prompts(transition))


def _signed(transition: Transition) -> str | None:
    """The name on a system prompt: whom it is addressed to."""
    names = (message.get("name") for message in _system_prompts(transition))
    return next((name for name in names if isinstance(name, str) and name), None)
