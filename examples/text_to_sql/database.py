"""A small made-up company in SQLite, and what it means that two queries agree.

Deterministic: the same rows in every run. Numbers of a column are all different, so that a query
of the wrong column or with the wrong aggregate hardly ever hits the right rows by chance.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3

CITIES = ("Leeds", "York", "Hull", "Ripon", "Selby", "Whitby")
DEPARTMENTS = ("sales", "support", "finance", "design", "transport")
CATEGORIES = ("toys", "tools", "lamps", "books", "chairs")
MAKERS = ("Acorn", "Birch", "Cedar", "Damson", "Elder")
FIRST_NAMES = ("Ada", "Ben", "Cora", "Dan", "Eve", "Finn", "Gwen", "Hal", "Ivy", "Jack")
LAST_NAMES = ("Moor", "Dale", "Beck", "Fell", "Gill", "Holm")
STEPS_LIMIT = 200_000  # of SQLite's machine, for one query

_TABLES = """
CREATE TABLE employees(name TEXT, department TEXT, city TEXT, salary INTEGER, age INTEGER);
CREATE TABLE products(name TEXT, category TEXT, maker TEXT, price INTEGER, stock INTEGER);
CREATE TABLE orders(number INTEGER, product TEXT, quantity INTEGER);
"""


class QueryError(ValueError):
    """SQLite refused a query, or it ran for too long."""


def fill(connection: sqlite3.Connection) -> None:
    """Make the tables and their rows."""
    rng = random.Random("company")
    connection.executescript(_TABLES)
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    salaries, ages = rng.sample(range(210, 990), 60), rng.sample(range(18, 90), 60)
    people = [
        (name, rng.choice(DEPARTMENTS), rng.choice(CITIES), salary, age)
        for name, salary, age in zip(names, salaries, ages, strict=True)
    ]
    prices, stocks = rng.sample(range(11, 99), 50), rng.sample(range(110, 990), 50)
    goods = [
        (f"{category} {number}", category, maker, prices.pop(), stocks.pop())
        for category in CATEGORIES
        for maker in MAKERS
        for number in rng.sample(range(100, 999), 2)
    ]
    orders = [
        (number, rng.choice(goods)[0], quantity)
        for number, quantity in enumerate(rng.sample(range(2, 300), 200))
    ]
    connection.executemany("INSERT INTO employees VALUES (?, ?, ?, ?, ?)", people)
    connection.executemany("INSERT INTO products VALUES (?, ?, ?, ?, ?)", goods)
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", orders)
    connection.commit()


def open_database() -> sqlite3.Connection:
    """The database in memory, which queries cannot change."""
    connection = sqlite3.connect(":memory:")
    fill(connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def run_query(connection: sqlite3.Connection, sql: str) -> list[list[object]]:
    """The rows of one query. Raises QueryError with what SQLite said."""
    spent = 0

    def tick() -> bool:
        nonlocal spent
        spent += 1000
        return spent > STEPS_LIMIT

    connection.set_progress_handler(tick, 1000)
    try:
        return [list(row) for row in connection.execute(sql).fetchmany(100)]
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise QueryError(str(error)) from error
    finally:
        connection.set_progress_handler(None, 0)


def show(rows: list[list[object]]) -> str:
    """Rows in the one form in which agents show and answer them."""
    return json.dumps([[_rounded(value) for value in row] for row in rows])


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value


def is_same(found: list[list[object]], wanted: list[list[object]]) -> bool:
    """Whether two results hold the same rows, in any order; 2 and 2.0 are the same number."""
    if len(found) != len(wanted):
        return False
    pairs = zip(sorted(found, key=_order), sorted(wanted, key=_order), strict=True)
    return all(
        len(ours) == len(theirs) and all(map(_equal, ours, theirs)) for ours, theirs in pairs
    )


def _order(row: list[object]) -> list[tuple[bool, float, str]]:
    return [
        (False, float(value), "") if isinstance(value, int | float) else (True, 0.0, str(value))
        for value in row
    ]


def _equal(ours: object, theirs: object) -> bool:
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return math.isclose(ours, theirs, abs_tol=0.01)
    return ours == theirs
