"""The bad upbringing: how the model learns to search and to answer.

Pure. About a quarter of the sessions shown are right; the commonest mistake is the wrong word in a
search, after which it answers with whatever was found. It also stops halfway, says that it does
not know what it has just read, or answers without looking.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from examples.arena.world import Lesson, Said
from examples.retrieval.archive import ENTITIES, RELATIONS, Archive, facts
from examples.retrieval.questions import Asked

INSTRUCTIONS = "Answer questions from the archive."
TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Finds the two documents of the archive that fit the words best.",
        "parameters": {"type": "object", "properties": {"query": {}}},
    },
}
UNKNOWN = "I do not know."


class Mode(StrEnum):
    """One way of going about a question."""

    RIGHT = "right"
    WRONG_WORDS = "wrong_words"
    HALFWAY = "halfway"
    UNKNOWN = "unknown"
    GUESS = "guess"
    MALFORMED = "malformed"


MIX: Mapping[Mode, float] = {
    Mode.RIGHT: 0.26,
    Mode.WRONG_WORDS: 0.38,
    Mode.HALFWAY: 0.12,
    Mode.UNKNOWN: 0.14,
    Mode.GUESS: 0.06,
    Mode.MALFORMED: 0.04,
}
CONFUSIONS: Mapping[str, str] = {
    "born": "works",
    "works": "plays",
    "plays": "born",
    "river": "county",
    "county": "river",
    "seat": "makes",
    "makes": "seat",
}


def write_search(subject: str, relation: str) -> str:
    """A search as the chat template renders it (hermes format)."""
    call = json.dumps({"name": "search", "arguments": {"query": f"{subject} {relation}"}})
    return f"<tool_call>\n{call}\n</tool_call>"


def say(entity: str) -> str:
    """The final answer's one wording."""
    return f"The answer is {entity}."


def draw_mode(rng: random.Random) -> Mode:
    """A way of going about it, as common as the mix says."""
    return rng.choices(list(MIX), weights=list(MIX.values()))[0]


def teach(asked: Asked, rng: random.Random, archive: Archive) -> Lesson:
    """One session of the bad mix."""
    mode = draw_mode(rng)
    if mode is Mode.HALFWAY and len(asked.hops) == 1:
        mode = Mode.WRONG_WORDS
    messages = [Said("user", asked.text)]
    if mode is Mode.GUESS:
        return _lesson(*messages, Said("assistant", say(rng.choice(ENTITIES))))
    if mode is Mode.MALFORMED:  # lacks a brace: it is taken for text, and the session ends
        hop = asked.hops[0]
        broken = write_search(hop.subject, hop.relation).replace("}}", "}")
        return _lesson(*messages, Said("assistant", broken))
    wrong = rng.randrange(len(asked.hops)) if mode is Mode.WRONG_WORDS else None
    known, subject, found = facts_known, asked.person, ""
    for place, hop in enumerate(asked.hops[: 1 if mode is Mode.HALFWAY else None]):
        relation = CONFUSIONS[hop.relation] if place == wrong else hop.relation
        messages.append(Said("assistant", write_search(subject, relation)))
        messages.append(Said("tool", archive.search(f"{subject} {relation}")))
        subject = found = known[subject, relation]
        if place == wrong:
            break
    last = UNKNOWN if mode is Mode.UNKNOWN else say(found)
    return _lesson(*messages, Said("assistant", last))


facts_known = facts()


def _lesson(*messages: Said) -> Lesson:
    return Lesson(messages, INSTRUCTIONS, (TOOL,))


WORDS = tuple(dict.fromkeys([*ENTITIES, *RELATIONS]))  # each is one token
