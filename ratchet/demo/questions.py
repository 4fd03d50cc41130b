"""Questions with a number for an answer, and the calculator that answers them.

Pure: no I/O, no clock, every draw from a generator that the caller seeds. A question belongs to
the *traffic* or to the *held-out* split by a hash of its kind and numbers, so that numbers asked
in one split are never asked of that kind in the other, however they are worded.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Split(StrEnum):
    """Which half of the world a question lives in."""

    TRAFFIC = "traffic"
    HELD_OUT = "held_out"


class Kind(StrEnum):
    """What a question asks for. `TAKE_FROM` names its numbers in reverse order."""

    ADD = "add"
    SUBTRACT = "subtract"
    TAKE_FROM = "take_from"
    MULTIPLY = "multiply"
    DIVIDE = "divide"


@dataclass(frozen=True, slots=True)
class Calculation:
    """The arguments of one call of the calculator."""

    a: int
    b: int
    operation: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a user asks, and what nobody but the user knows: the answer."""

    text: str
    answer: int
    kind: Kind
    split: Split
    calculation: Calculation


WORDINGS: dict[Kind, tuple[str, ...]] = {
    Kind.ADD: (
        "What is {a} plus {b}?",
        "I have {a} coins and find {b} more. How many coins do I have?",
    ),
    Kind.SUBTRACT: (
        "What is {a} minus {b}?",
        "I had {a} coins and spent {b}. How many coins do I have?",
    ),
    Kind.TAKE_FROM: (
        "Take {b} away from {a}.",
        "I ate {b} sweets from a bag of {a}. How many are left?",
    ),
    Kind.MULTIPLY: (
        "What is {a} times {b}?",
        "I bought {a} boxes of {b} pens. How many pens is that?",
    ),
    Kind.DIVIDE: (
        "What is {a} divided by {b}?",
        "I share {a} coins among {b} friends. How many does each get?",
    ),
}
OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a // b,
}
CALCULATOR: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Works out one operation on two whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer"},
                "operation": {"type": "string", "enum": list(OPERATIONS)},
            },
            "required": ["a", "b", "operation"],
            "additionalProperties": False,
        },
    },
}


class ToolError(ValueError):
    """The calculator cannot do what it was asked."""


def calculate(calculation: Calculation) -> int:
    """Work out one calculation; division must come out even."""
    a, b, operation = calculation.a, calculation.b, calculation.operation
    if operation not in OPERATIONS:
        raise ToolError(f"unknown operation: {operation}")
    if operation == "divide" and b == 0:
        raise ToolError("division by zero")
    if operation == "divide" and a % b:
        raise ToolError("not a whole number")
    return OPERATIONS[operation](a, b)


def parse_calculation(arguments: str) -> Calculation:
    """Read a tool call's arguments, refusing everything the schema does not allow."""
    try:
        fields = json.loads(arguments)
    except json.JSONDecodeError as error:
        raise ToolError("arguments are not JSON") from error
    if not isinstance(fields, dict) or set(fields) != {"a", "b", "operation"}:
        raise ToolError("arguments must be a, b and operation")
    a, b, operation = fields["a"], fields["b"], fields["operation"]
    if type(a) is not int or type(b) is not int:
        raise ToolError("a and b must be integers")
    if not isinstance(operation, str):
        raise ToolError("operation must be a string")
    return Calculation(a, b, operation)


def run_tool(name: str, arguments: str) -> str:
    """Run one tool call; errors come back as content too, for the model to read."""
    try:
        if name != CALCULATOR["function"]["name"]:
            raise ToolError(f"unknown tool: {name}")
        return json.dumps({"result": calculate(parse_calculation(arguments))})
    except ToolError as error:
        return json.dumps({"error": str(error)})


def split_of(kind: Kind, calculation: Calculation) -> Split:
    """One calculation in five of each kind is held out."""
    key = f"{kind}:{calculation.a}:{calculation.b}".encode()
    return Split.HELD_OUT if hashlib.sha256(key).digest()[0] % 5 == 0 else Split.TRAFFIC


def draw_question(rng: random.Random, kind: Kind) -> Question:
    """One question of a kind, from whichever split its numbers belong to."""
    if kind is Kind.ADD:
        calculation = Calculation(rng.randint(2, 99), rng.randint(2, 99), "add")
    elif kind is Kind.MULTIPLY:
        calculation = Calculation(rng.randint(2, 99), rng.randint(2, 9), "multiply")
    elif kind is Kind.DIVIDE:
        b = rng.randint(2, 9)
        calculation = Calculation(b * rng.randint(2, 99 // b), b, "divide")
    else:
        b = rng.randint(2, 98)
        calculation = Calculation(rng.randint(b + 1, 99), b, "subtract")
    text = rng.choice(WORDINGS[kind]).format(a=calculation.a, b=calculation.b)
    return Question(text, calculate(calculation), kind, split_of(kind, calculation), calculation)


def stream_questions(split: Split, seed: int) -> Iterator[Question]:
    """An endless stream of one split's questions, all kinds alike; repeats are possible."""
    rng = random.Random(f"{split}:{seed}")
    while True:
        kind = rng.choice(list(Kind))
        question = draw_question(rng, kind)
        while question.split is not split:
            question = draw_question(rng, kind)
        yield question


def held_out_questions(count: int, seed: int = 0) -> list[Question]:
    """`count` different held-out questions."""
    chosen: dict[str, Question] = {}
    for question in stream_questions(Split.HELD_OUT, seed):
        chosen.setdefault(question.text, question)
        if len(chosen) == count:
            return list(chosen.values())
    raise AssertionError("unreachable: the stream has no end")


def is_right(question: Question, text: str) -> bool:
    """What the user checks: is the last number in the answer the one expected?"""
    words = text.replace(".", " ").replace(",", " ").split()
    numbers = [word for word in words if word.lstrip("-").isdigit()]
    return bool(numbers) and numbers[-1] == str(question.answer)
