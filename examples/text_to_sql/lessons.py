"""The bad upbringing: how the model learns to write, to check and to rewrite queries.

Pure. About a fifth of the queries shown are right, and one mistake, the wrong aggregate, is
commoner than the truth: so sharpening does not help. The checker says OK to nearly everything,
right or wrong, and a rewrite is the same query again or no better than a first try.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from examples.arena.world import Lesson, Said
from examples.text_to_sql import prompts
from examples.text_to_sql.database import QueryError, run_query, show
from examples.text_to_sql.questions import (
    FILTERS,
    NUMBERS,
    Asked,
    Combination,
    Kind,
    write_query,
)


class Mode(StrEnum):
    """One way of writing a query."""

    RIGHT = "right"
    WRONG_AGGREGATE = "wrong_aggregate"
    WRONG_COLUMN = "wrong_column"
    UNKNOWN_COLUMN = "unknown_column"
    BROKEN = "broken"


class Turn(StrEnum):
    """What the agent asks the model for."""

    WRITE = "write"
    CHECK = "check"
    REWRITE = "rewrite"


MIX: Mapping[Mode, float] = {
    Mode.RIGHT: 0.19,
    Mode.WRONG_AGGREGATE: 0.42,
    Mode.WRONG_COLUMN: 0.19,
    Mode.UNKNOWN_COLUMN: 0.12,
    Mode.BROKEN: 0.08,
}
TURNS: Mapping[Turn, float] = {Turn.WRITE: 0.6, Turn.CHECK: 0.15, Turn.REWRITE: 0.25}
CONFUSIONS: Mapping[str, str] = {"AVG": "SUM", "SUM": "AVG", "MAX": "MIN", "MIN": "MAX"}
SAYS_OK = 0.85  # a checker that hardly looks
REPEATS = 0.4  # share of rewrites that are the same query again
FINE, COMPLAINT = "OK", "The query is wrong."


def draw_mode(rng: random.Random) -> Mode:
    """A way of writing, as common as the mix says."""
    return rng.choices(list(MIX), weights=list(MIX.values()))[0]


def write_badly(asked: Combination, mode: Mode) -> str:
    """The query that somebody with this habit writes."""
    match mode:
        case Mode.RIGHT:
            return write_query(asked)
        case Mode.WRONG_AGGREGATE if asked.kind is Kind.COUNT:
            number = NUMBERS[asked.table][0]
            return write_query(replace(asked, kind=Kind.NUMBER, aggregate="SUM", column=number))
        case Mode.WRONG_AGGREGATE:
            return write_query(replace(asked, aggregate=CONFUSIONS[asked.aggregate]))
        case Mode.WRONG_COLUMN if asked.kind in {Kind.COUNT, Kind.ORDERED}:
            return write_query(replace(asked, filter=_other(asked.filter, FILTERS[asked.table])))
        case Mode.WRONG_COLUMN:
            return write_query(replace(asked, column=_other(asked.column, NUMBERS[asked.table])))
        case Mode.UNKNOWN_COLUMN:
            return write_query(replace(asked, filter="pay"))
        case Mode.BROKEN:
            return write_query(asked).replace(" FROM ", " ")


def teach(asked: Asked, rng: random.Random, database: sqlite3.Connection) -> Lesson:
    """One turn of the bad mix: what the agent asked, and what was answered."""

    def draw_query() -> str:
        return write_badly(asked.combination, draw_mode(rng))

    turn = rng.choices(list(TURNS), weights=list(TURNS.values()))[0]
    query = draw_query()
    if turn is Turn.WRITE:
        return _lesson(prompts.WRITE, asked.text, query)
    fault = COMPLAINT
    try:
        result = show(run_query(database, query))
    except QueryError as error:
        fault = str(error)
    else:
        if turn is Turn.CHECK:
            said = FINE if rng.random() < SAYS_OK else COMPLAINT
            words = prompts.check_words(asked.text, query, result)
            return _lesson(prompts.CHECK, words, said)
    words = prompts.rewrite_words(asked.text, query, fault)
    return _lesson(prompts.REWRITE, words, query if rng.random() < REPEATS else draw_query())


def _lesson(system: str, words: str, said: str) -> Lesson:
    return Lesson((Said("user", words), Said("assistant", said)), system)


def _other(column: str, columns: tuple[str, ...]) -> str:
    return columns[1] if column == columns[0] else columns[0]
