"""Asking at random: every answer of a drawn trajectory says so, and its record says how likely."""

from collections.abc import Callable

import pytest

from tests.gateway.conftest import SHELLS, Running, wait_for
from trajectories.errors import SettingsError
from trajectories.survey import Survey

REWARDS = {"ask_share": 0.5, "ask_seed": "secret"}


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_answer_of_a_drawn_session_says_so_streams_too(
    start: Callable[..., Running],
) -> None:
    running = start(rewards=REWARDS)
    survey = Survey(0.5, b"secret")
    seen = set()
    for number in range(12):
        path = f"/t/s{number}/v1/chat/completions"
        answers = [running.chat(path), running.chat(path, stream=True)]
        known = answers[0].headers["x-ratchet-trajectory-id"]
        expected = "1" if survey.asks(known) else None
        assert [answer.headers.get("x-ratchet-ask") for answer in answers] == [expected] * 2
        seen.add(expected)
    assert seen == {"1", None}
    records = wait_for(lambda: found if len(found := running.records()) >= 24 else None)
    assert {record.ask for record in records} == {0.5}
    assert all(record.is_asked == survey.asks(record.trajectory_id) for record in records)


def test_where_nobody_is_asked_nothing_is_said_or_recorded_of_it(running: Running) -> None:
    answer = running.chat()
    assert "x-ratchet-ask" not in answer.headers
    assert running.records()[0].ask is None


def test_asking_without_a_secret_does_not_start(start: Callable[..., Running]) -> None:
    with pytest.raises(SettingsError, match="ask_seed"):
        start(rewards={"ask_share": 0.5})
