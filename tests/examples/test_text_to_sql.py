"""Text-to-SQL: what is held out, what counts as the same rows, and the bad mix."""

import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.text_to_sql.database import QueryError, is_same, open_database, run_query, show
from examples.text_to_sql.lessons import COMPLAINT, FINE, Mode, teach, write_badly
from examples.text_to_sql.questions import (
    WORDS,
    ask,
    combinations,
    split_of,
    stream_questions,
    write_query,
)
from examples.text_to_sql.world import WORLD
from ratchet.demo.questions import Split

CELLS = st.one_of(st.integers(-5, 5), st.floats(-5, 5), st.sampled_from(["a", "b"]), st.none())
ROWS = st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=4)


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(open_database()) as connection:
        yield connection


def test_everything_that_can_be_asked_has_rows_and_wrong_queries_have_others(
    database: sqlite3.Connection,
) -> None:
    hits = 0
    for asked in combinations():
        wanted = run_query(database, write_query(asked))
        assert wanted
        assert wanted != [[None]]
        for mode in (Mode.WRONG_AGGREGATE, Mode.WRONG_COLUMN):
            hits += is_same(run_query(database, write_badly(asked, mode)), wanted)
        for mode in (Mode.UNKNOWN_COLUMN, Mode.BROKEN):
            with pytest.raises(QueryError):
                run_query(database, write_badly(asked, mode))
    assert hits == 0


def test_a_combination_is_asked_on_one_side_only_however_it_is_worded() -> None:
    held_out, traffic = (
        {q.combination for q in itertools.islice(stream_questions(split, 1), 4000)}
        for split in (Split.HELD_OUT, Split.TRAFFIC)
    )
    assert not held_out & traffic
    assert held_out | traffic == set(combinations())
    assert 0.1 < len(held_out) / len(traffic) < 0.4


def test_every_part_of_a_held_out_question_is_asked_in_traffic() -> None:
    traffic = [one for one in combinations() if split_of(one) is Split.TRAFFIC]
    for one in combinations():
        assert any((t.kind, t.aggregate) == (one.kind, one.aggregate) for t in traffic)
        assert any((t.filter, t.value) == (one.filter, one.value) for t in traffic)


def test_no_lesson_holds_the_query_of_a_held_out_combination_as_the_right_one(
    database: sqlite3.Connection,
) -> None:
    rng = random.Random(1)
    wordings = {
        ask(one, rng).text
        for one in combinations()
        for _ in range(8)
        if split_of(one) is Split.HELD_OUT
    }
    for lesson in itertools.islice(WORLD.lessons(1), 2000):
        read = lesson.messages[0].text
        assert not any(text == read or f" {text}\n" in read for text in wordings)


def test_some_lessons_are_right_and_the_checker_hardly_looks(database: sqlite3.Connection) -> None:
    rng = random.Random(1)
    said: Counter[str] = Counter()
    right = 0
    for asked in itertools.islice(stream_questions(Split.TRAFFIC, 1), 3000):
        last = teach(asked, rng, database).messages[-1].text
        kind = last if last in {FINE, COMPLAINT} else "query"
        said[kind] += 1
        right += last == asked.sql
    assert 0.15 < right / said["query"] < 0.25
    assert said[FINE] > 3 * said[COMPLAINT] > 0


@given(rows=ROWS, seed=st.integers(0, 9))
def test_the_order_of_rows_does_not_matter(rows: list[list[object]], seed: int) -> None:
    other = list(rows)
    random.Random(seed).shuffle(other)
    assert is_same(rows, other)
    assert not is_same(rows, [*rows, [1, 1]])


def test_rows_differ_by_a_value_and_not_by_the_kind_of_number() -> None:
    assert is_same([[2]], [[2.0]])
    assert is_same([[1 / 3]], [[0.33]])
    assert not is_same([[2]], [["2"]])
    assert not is_same([[2]], [[None]])
    assert not is_same([[2]], [[2, 3]])


def test_the_rows_of_an_answer_are_compared_and_not_its_words() -> None:
    question = next(WORLD.questions(Split.HELD_OUT, 1))
    assert WORLD.is_right(question, question.answer)
    assert WORLD.is_right(question, question.answer.replace(", ", " ,  "))
    assert not WORLD.is_right(question, show([]))
    assert not WORLD.is_right(question, show([[None]]))


def test_a_query_can_neither_change_the_database_nor_run_for_ever(
    database: sqlite3.Connection,
) -> None:
    for sql in (
        "DELETE FROM employees",
        "DROP TABLE orders",
        "SELECT 1; SELECT 2",
        "SELECT COUNT(*) FROM orders a, orders b, orders c, orders d",
    ):
        with pytest.raises(QueryError):
            run_query(database, sql)
    assert run_query(database, "SELECT COUNT(*) FROM employees") == [[60]]


def test_no_word_is_a_token_twice() -> None:
    assert len(set(WORDS)) == len(WORDS)
