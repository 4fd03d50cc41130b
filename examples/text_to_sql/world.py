"""Text-to-SQL over SQLite under an agent of LangGraph: write, check, rewrite."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.arena.world import Lesson, Question
from examples.text_to_sql.database import is_same, open_database, run_query, show
from examples.text_to_sql.lessons import teach
from examples.text_to_sql.questions import WORDS, stream_questions
from ratchet.demo.questions import Split
from ratchet.demo.users import Habits


@dataclass(frozen=True)
class TextToSql:
    """The world. A question's `answer` is the rows of the right query, as JSON."""

    name: str = "text_to_sql"
    title: str = "Text-to-SQL with write, check and rewrite turns, LangGraph"
    framework: str = "LangGraph 1.2.22"
    environment: str = "openai3"
    habits: Habits = field(
        default=Habits(speaks_when_wrong=0.5, speaks_when_right=0.4, slips=0.02, cap=0.5)
    )
    rounds: int = 3
    sessions: int = 400
    steps: int = 700
    words: Sequence[str] = WORDS
    # With wrong answers at a tenth of their weight, as elsewhere, being surer of whatever it does
    # most would help this one by itself: broken SQL is noise (docs/results.md).
    settings: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"trainer": {"negative_weight": 0.5}}
    )

    def questions(self, split: Split, seed: int) -> Iterator[Question]:
        """Questions about the company, of one split."""
        database = open_database()
        for asked in stream_questions(split, seed):
            yield Question(asked.text, show(run_query(database, asked.sql)), split)

    def is_right(self, question: Question, text: str) -> bool:
        """Whether the rows answered are the rows wanted."""
        try:
            rows = json.loads(text)
        except json.JSONDecodeError:
            return False
        return is_same(rows, json.loads(question.answer))

    def lessons(self, seed: int) -> Iterator[Lesson]:
        """The bad mix, on traffic questions."""
        rng, database = random.Random(seed), open_database()
        for asked in stream_questions(Split.TRAFFIC, seed=10_000 + seed):
            yield teach(asked, rng, database)


WORLD = TextToSql()
