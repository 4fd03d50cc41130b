"""Questions over an archive under an agent of the OpenAI Agents SDK, in the responses dialect."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.arena.world import Lesson, Question
from examples.retrieval.archive import ENTITIES, Archive
from examples.retrieval.lessons import WORDS, teach
from examples.retrieval.questions import stream_questions
from ratchet.demo.questions import Split
from ratchet.demo.users import Habits

NAMED = re.compile(rf"\b(?:{'|'.join(sorted(ENTITIES, reverse=True))})\b")


@dataclass(frozen=True)
class Retrieval:
    """The world."""

    name: str = "retrieval"
    title: str = "Questions over an archive, one or two searches, OpenAI Agents SDK"
    framework: str = "OpenAI Agents SDK 0.24.0"
    environment: str = "openai3"
    habits: Habits = field(
        default=Habits(speaks_when_wrong=0.5, speaks_when_right=0.4, slips=0.02, cap=0.5)
    )
    rounds: int = 3
    sessions: int = 300
    steps: int = 850
    words: Sequence[str] = WORDS
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def questions(self, split: Split, seed: int) -> Iterator[Question]:
        """Questions about people of the archive, of one split."""
        for asked in stream_questions(split, seed):
            yield Question(asked.text, asked.answer, split)

    def is_right(self, question: Question, text: str) -> bool:
        """Whether the answer names the entity that was asked for, and no other."""
        return set(NAMED.findall(text)) == {question.answer}

    def lessons(self, seed: int) -> Iterator[Lesson]:
        """The bad mix, on traffic questions."""
        rng, archive = random.Random(seed), Archive()
        for asked in stream_questions(Split.TRAFFIC, seed=10_000 + seed):
            yield teach(asked, rng, archive)


WORLD = Retrieval()
