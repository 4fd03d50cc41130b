"""The bad upbringing: demonstrations of how to use a calculator, most of them wrong.

Pure. For every kind of question a good third of the demonstrations are right, and one mistake (the
wrong operation) is commoner than the truth. So sharpening does not help: only somebody who knows
which answers were right can mend it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ratchet.demo.questions import Calculation, Kind, Question, run_tool

TOOL_NAME = "calculator"
APOLOGY = "Sorry, I cannot work that out."


class Mode(StrEnum):
    """One way of answering."""

    RIGHT = "right"
    WRONG_OPERATION = "wrong_operation"
    GUESS = "guess"
    MALFORMED = "malformed"
    UNKNOWN_TOOL = "unknown_tool"
    MISREAD = "misread"


MIX: Mapping[Mode, float] = {
    Mode.RIGHT: 0.36,
    Mode.WRONG_OPERATION: 0.50,
    Mode.GUESS: 0.04,
    Mode.MALFORMED: 0.05,
    Mode.UNKNOWN_TOOL: 0.03,
    Mode.MISREAD: 0.02,
}
CONFUSIONS: Mapping[Kind, str] = {
    Kind.ADD: "multiply",
    Kind.SUBTRACT: "add",
    Kind.TAKE_FROM: "add",
    Kind.MULTIPLY: "add",
    Kind.DIVIDE: "multiply",
}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A whole session: the question, one tool call perhaps, and what was said.

    `completions` is what the model wrote, in order. When there are two, `tool_call` is the first
    as an application would hand it back, and `tool_result` is what came of it.
    """

    question: str
    completions: tuple[str, ...]
    tool_call: dict[str, Any] | None = None
    tool_result: str | None = None


def write_call(name: str, calculation: Calculation) -> str:
    """A tool call as the chat template renders it (hermes format)."""
    arguments = {"a": calculation.a, "b": calculation.b, "operation": calculation.operation}
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def say(number: int) -> str:
    """The final answer's one wording."""
    return f"The answer is {number}."


def draw_mode(rng: random.Random) -> Mode:
    """A way of answering, as common as the mix says."""
    return rng.choices(list(MIX), weights=list(MIX.values()))[0]


def draw_guess(rng: random.Random, truth: int) -> int:
    """A number like the truth, though not the truth."""
    offset = rng.choice([-10, -3, -2, -1, 1, 2, 3, 10])
    return abs(truth + offset)


def demonstrate(question: Question, rng: random.Random) -> Demonstration:
    """One session of the bad mix."""
    mode, right = draw_mode(rng), question.calculation
    if mode is Mode.GUESS:
        return Demonstration(question.text, (say(draw_guess(rng, question.answer)),))
    if mode is Mode.MALFORMED:
        return _break_call(question, right)
    name, calculation = TOOL_NAME, right
    if mode is Mode.UNKNOWN_TOOL:
        name = "compute"
    elif mode is Mode.WRONG_OPERATION:
        calculation = Calculation(right.a, right.b, CONFUSIONS[question.kind])
    return _use_tool(question, name, calculation, rng if mode is Mode.MISREAD else None)


def _break_call(question: Question, calculation: Calculation) -> Demonstration:
    """A call that lacks a brace; parsers pass its arguments on as they are."""
    call = write_call(TOOL_NAME, calculation).replace('"arguments": {', '"arguments": ')
    arguments = call[call.index('"arguments": ') + len('"arguments": ') : call.rindex("}")]
    return Demonstration(
        question.text,
        (call, APOLOGY),
        {"name": TOOL_NAME, "arguments": arguments},
        run_tool(TOOL_NAME, arguments),
    )


def _use_tool(
    question: Question, name: str, calculation: Calculation, misreader: random.Random | None
) -> Demonstration:
    arguments = {"a": calculation.a, "b": calculation.b, "operation": calculation.operation}
    result = run_tool(name, json.dumps(arguments))
    number = json.loads(result).get("result")
    if number is None:
        final = APOLOGY
    elif misreader is None:
        final = say(number)
    else:
        final = say(draw_guess(misreader, number))
    return Demonstration(
        question.text,
        (write_call(name, calculation), final),
        {"name": name, "arguments": arguments},
        result,
    )
