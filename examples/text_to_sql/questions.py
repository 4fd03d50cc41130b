"""Questions about the company, each with the query that answers it.

Pure. What a question asks (its *combination*: kind, aggregate, column, filter and value) belongs
to the *traffic* or is *held out* by a hash, however it is worded. Held-out combinations are asked
in no traffic and shown in no upbringing; their parts are, in other combinations.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from examples.text_to_sql.database import CATEGORIES, CITIES, DEPARTMENTS, MAKERS
from ratchet.demo.questions import Split


class Kind(StrEnum):
    """The shape of a question."""

    COUNT = "count"
    NUMBER = "number"  # an aggregate of a column
    NAME = "name"  # whose column is the highest or lowest
    ORDERED = "ordered"  # an aggregate of the quantity ordered: needs a join


@dataclass(frozen=True, slots=True)
class Combination:
    """What is asked."""

    kind: Kind
    table: str
    aggregate: str
    column: str  # of numbers
    filter: str  # the column that picks rows
    value: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks, and the query whose rows are the answer."""

    text: str
    combination: Combination
    sql: str
    split: Split


VALUES = {"department": DEPARTMENTS, "city": CITIES, "category": CATEGORIES, "maker": MAKERS}
FILTERS = {"employees": ("department", "city"), "products": ("category", "maker")}
NUMBERS = {"employees": ("salary", "age"), "products": ("price", "stock")}
MEANINGS = {"AVG": "average", "SUM": "total", "MAX": "highest", "MIN": "lowest"}
PLACES = {
    "department": "in the {} department",
    "city": "in {}",
    "category": "of category {}",
    "maker": "by {}",
}
WORDINGS = {
    Kind.COUNT: ("How many {table} are there {place}?", "Count the {table} {place}."),
    Kind.NUMBER: (
        "What is the {meaning} {column} of {table} {place}?",
        "Tell me the {meaning} {column} for {table} {place}.",
    ),
    Kind.NAME: (
        "Which of the {table} {place} has the {meaning} {column}?",
        "Name the one with the {meaning} {column} among {table} {place}.",
    ),
    Kind.ORDERED: (
        "What is the {meaning} quantity in orders for products {place}?",
        "Tell me the {meaning} quantity of all orders for products {place}.",
    ),
}
WORDS = tuple(
    sorted(
        {
            *itertools.chain(*VALUES.values(), *NUMBERS.values()),
            *VALUES,
            *MEANINGS,
            *MEANINGS.values(),
            *("employees", "products", "orders", "quantity", "COUNT", "pay"),
        }
    )
)  # each is one token


def write_query(asked: Combination) -> str:
    """The query in the one style that the model was brought up on."""
    where = f"WHERE {asked.filter} = '{asked.value}'"
    match asked.kind:
        case Kind.COUNT:
            return f"SELECT COUNT(*) FROM {asked.table} {where}"
        case Kind.NUMBER:
            return f"SELECT {asked.aggregate}({asked.column}) FROM {asked.table} {where}"
        case Kind.NAME:
            # SQLite takes a bare column from the row of the highest or lowest.
            return f"SELECT name, {asked.aggregate}({asked.column}) FROM {asked.table} {where}"
        case Kind.ORDERED:
            join = "FROM orders JOIN products ON product = name"
            return f"SELECT {asked.aggregate}(quantity) {join} {where}"


def combinations() -> list[Combination]:
    """Everything that can be asked."""
    found = []
    for table, filters in FILTERS.items():
        for column, wanted in ((f, value) for f in filters for value in VALUES[f]):
            picked = Combination(Kind.COUNT, table, "COUNT", "*", column, wanted)
            found.append(picked)
            for number in NUMBERS[table]:
                for aggregate in MEANINGS:
                    one = replace(picked, aggregate=aggregate, column=number)
                    found.append(replace(one, kind=Kind.NUMBER))
                    if aggregate in {"MAX", "MIN"}:
                        found.append(replace(one, kind=Kind.NAME))
            if table == "products":
                found += [
                    replace(picked, kind=Kind.ORDERED, aggregate=aggregate, column="quantity")
                    for aggregate in MEANINGS
                ]
    return found


def split_of(asked: Combination) -> Split:
    """One combination in five is held out."""
    key = f"{asked.kind}:{asked.aggregate}:{asked.column}:{asked.filter}:{asked.value}".encode()
    return Split.HELD_OUT if hashlib.sha256(key).digest()[0] % 5 == 0 else Split.TRAFFIC


def ask(asked: Combination, rng: random.Random) -> Asked:
    """The question in one of its wordings."""
    text = rng.choice(WORDINGS[asked.kind]).format(
        table=asked.table,
        column=asked.column,
        meaning=MEANINGS.get(asked.aggregate, ""),
        place=PLACES[asked.filter].format(asked.value),
    )
    return Asked(text, asked, write_query(asked), split_of(asked))


def stream_questions(split: Split, seed: int) -> Iterator[Asked]:
    """An endless stream of one split's questions, all kinds alike."""
    rng = random.Random(f"sql:{split}:{seed}")
    by_kind = {
        kind: [c for c in combinations() if c.kind is kind and split_of(c) is split]
        for kind in Kind
    }
    while True:
        yield ask(rng.choice(by_kind[rng.choice(list(Kind))]), rng)
