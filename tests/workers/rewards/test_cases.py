"""Every signal over every recorded body: what must fire fires, and nothing else does."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.workers.rewards.cases import (
    CASES,
    OWN,
    continuation,
    fired,
    own_case,
    rules,
    single_bodies,
    trajectory_of,
)
from workers.rewards.signals import SIGNALS

CONTINUATIONS = sorted((CASES / "continuations").glob("*.json"))
OTHERS = sorted(
    path for folder in ("quirks", "messages", "responses") for path in (CASES / folder).glob("*")
)
# What fires in conversations that were recorded for something else, each looked at: instructor
# found an answer and a call not valid, and sent them back.
KNOWN = {
    "instructor-reask-json": [(0, "answer_sent_back")],
    "instructor-reask": [(0, "tool_result_error")],
}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_what_should_fire_fires_and_nothing_else(path: Path) -> None:
    trajectory, own, expected = own_case(path)
    assert sorted(fired(trajectory, own)) == sorted(expected)


def test_every_signal_has_cases_that_fire_and_as_many_that_are_alike_and_do_not() -> None:
    yes: Counter[str] = Counter()
    no: Counter[str] = Counter()
    for path in OWN:
        expected = {name for _, name in own_case(path)[2]}
        yes.update(expected)
        if "-no-" in path.stem:
            no[path.stem.split("-no-")[0]] += 1
            assert path.stem.split("-no-")[0] not in expected
    names = {signal.name for signal in SIGNALS}
    assert set(yes) == set(no) == names


@pytest.mark.parametrize("path", CONTINUATIONS, ids=lambda path: path.stem)
def test_conversations_of_many_clients_fire_nothing_but_what_was_looked_at(path: Path) -> None:
    assert fired(continuation(path), rules()) == KNOWN.get(path.stem, [])


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_a_body_with_a_plain_answer_fires_nothing(path: Path) -> None:
    """As the last call of a conversation, with an answer that is not JSON where none is wanted."""
    for body in single_bodies(json.loads(path.read_text())):
        wanted = "response_format" in body or "output_config" in body or "text" in body
        answer = {"content": '{"city": "Paris", "degrees": 21}' if wanted else "It is done."}
        call = {"request": body, "choices": [{"message": answer, "finish_reason": "stop"}]}
        found = [name for _, name in fired(trajectory_of([call]), rules())]
        assert [name for name in found if not (wanted and name == "schema_broken")] == []
