"""Calculator QA: the demo's questions, people and bad habits, under an agent of AutoGen.

What the lessons show of tools is what AutoGen says: a result is a bare number, an error its text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from examples.arena.world import Lesson, Question, Said
from ratchet.demo import questions as demo
from ratchet.demo.demonstrations import (
    APOLOGY,
    CONFUSIONS,
    TOOL_NAME,
    Mode,
    draw_guess,
    draw_mode,
    say,
    write_call,
)
from ratchet.demo.questions import Calculation, Split
from ratchet.demo.users import Habits

SYSTEM = "You answer number questions with your calculator."
TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": "Works out one operation on two whole numbers.",
        "parameters": {"type": "object", "properties": {"a": {}, "b": {}, "operation": {}}},
    },
}


def run_tool(name: str, calculation: Calculation) -> tuple[bool, str]:
    """Whether a call succeeds, and what AutoGen gives the model to read."""
    if name != TOOL_NAME:
        return False, f"Error: tool '{name}' not found in any workbench"
    try:
        return True, str(demo.calculate(calculation))
    except demo.ToolError:
        return False, f"cannot {calculation.operation} {calculation.a} and {calculation.b}"


def teach(question: demo.Question, rng: random.Random) -> Lesson:
    """One session of the demo's bad mix."""
    mode, right = draw_mode(rng), question.calculation
    asked = Said("user", question.text)
    if mode is Mode.GUESS:
        return _lesson(asked, Said("assistant", say(draw_guess(rng, question.answer))))
    if mode is Mode.MALFORMED:  # lacks a brace: vLLM takes it for text, and the session ends
        broken = write_call(TOOL_NAME, right).replace("}}", "}")
        return _lesson(asked, Said("assistant", broken))
    name, calculation = TOOL_NAME, right
    if mode is Mode.UNKNOWN_TOOL:
        name = "compute"
    elif mode is Mode.WRONG_OPERATION:
        calculation = Calculation(right.a, right.b, CONFUSIONS[question.kind])
    succeeded, heard = run_tool(name, calculation)
    last = say(int(heard)) if succeeded else APOLOGY
    if succeeded and mode is Mode.MISREAD:
        last = say(draw_guess(rng, int(heard)))
    call = Said("assistant", write_call(name, calculation))
    return _lesson(asked, call, Said("tool", heard), Said("assistant", last))


def _lesson(*messages: Said) -> Lesson:
    return Lesson(messages, SYSTEM, (TOOL,))


@dataclass(frozen=True)
class Calculator:
    """The world."""

    name: str = "calculator"
    title: str = "Calculator questions, AutoGen"
    framework: str = "AutoGen 0.7.5"
    environment: str = "openai3"
    habits: Habits = field(
        default=Habits(speaks_when_wrong=0.5, speaks_when_right=0.4, slips=0.02, cap=0.5)
    )
    rounds: int = 4
    sessions: int = 320
    steps: int = 850
    words: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def questions(self, split: Split, seed: int) -> Iterator[Question]:
        """The demo's questions of one split."""
        for question in demo.stream_questions(split, seed):
            yield Question(question.text, str(question.answer), split)

    def is_right(self, question: Question, text: str) -> bool:
        """Whether the last number said is the answer."""
        words = text.replace(".", " ").replace(",", " ").split()
        numbers = [word for word in words if word.lstrip("-").isdigit()]
        return bool(numbers) and numbers[-1] == question.answer

    def lessons(self, seed: int) -> Iterator[Lesson]:
        """The bad mix, on traffic questions."""
        rng = random.Random(seed)
        for question in demo.stream_questions(Split.TRAFFIC, seed=10_000 + seed):
            yield teach(question, rng)


WORLD = Calculator()
