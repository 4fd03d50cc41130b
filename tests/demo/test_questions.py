"""The questions and the calculator."""

import itertools
import json

import pytest

from ratchet.demo.questions import (
    Kind,
    Split,
    held_out_questions,
    is_right,
    run_tool,
    split_of,
    stream_questions,
)


def test_held_out_questions_never_occur_in_traffic() -> None:
    asked = {q.text for q in itertools.islice(stream_questions(Split.TRAFFIC, seed=1), 5000)}
    held_out = held_out_questions(400)
    assert len({question.text for question in held_out}) == 400
    assert not asked & {question.text for question in held_out}


def test_numbers_asked_in_one_split_are_never_asked_of_that_kind_in_the_other() -> None:
    for split in Split:
        for question in itertools.islice(stream_questions(split, seed=2), 500):
            assert split_of(question.kind, question.calculation) is split


def test_the_same_seed_asks_the_same_questions() -> None:
    first, second = (
        list(itertools.islice(stream_questions(Split.TRAFFIC, seed=3), 50)) for _ in range(2)
    )
    assert first == second
    assert {question.kind for question in first} == set(Kind)


def test_the_calculator_answers_every_question_when_it_is_used_rightly() -> None:
    for question in held_out_questions(200):
        asked = question.calculation
        arguments = {"a": asked.a, "b": asked.b, "operation": asked.operation}
        result = json.loads(run_tool("calculator", json.dumps(arguments)))
        assert result == {"result": question.answer}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("compute", '{"a": 1, "b": 2, "operation": "add"}'),
        ("calculator", '"a": 1, "b": 2, "operation": "add"}'),
        ("calculator", "[1, 2]"),
        ("calculator", '{"a": 1, "b": 2}'),
        ("calculator", '{"a": 1, "b": 2, "operation": "add", "c": 3}'),
        ("calculator", '{"a": "1", "b": 2, "operation": "add"}'),
        ("calculator", '{"a": true, "b": 2, "operation": "add"}'),
        ("calculator", '{"a": 1.5, "b": 2, "operation": "add"}'),
        ("calculator", '{"a": 1, "b": 2, "operation": "power"}'),
        ("calculator", '{"a": 1, "b": 2, "operation": ["add"]}'),
        ("calculator", '{"a": 7, "b": 2, "operation": "divide"}'),
        ("calculator", '{"a": 7, "b": 0, "operation": "divide"}'),
    ],
)
def test_the_calculator_refuses_what_its_schema_does_not_allow(name: str, arguments: str) -> None:
    assert set(json.loads(run_tool(name, arguments))) == {"error"}


def test_only_the_last_number_of_an_answer_counts() -> None:
    question = held_out_questions(1)[0]
    assert is_right(question, f"The answer is {question.answer}.")
    assert not is_right(question, f"The answer is {question.answer}7.")
    assert not is_right(question, f"Not {question.answer} but 1000000.")
    assert not is_right(question, "")
