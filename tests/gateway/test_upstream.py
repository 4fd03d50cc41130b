"""Whatever the engine does, the client gets a clear answer, and the record says how it ended."""

from collections.abc import Callable

import pytest

from tests.gateway.conftest import Running, wait_for
from tests.gateway.test_chat import events
from trajectories.model import Outcome


def test_a_dead_engine_is_503_with_retry_after(start: Callable[..., Running]) -> None:
    running = start(upstream={"url": "http://127.0.0.1:9"})
    answer = running.chat()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "upstream_down"
    (record,) = running.records()
    assert (record.outcome, record.http_status) == (Outcome.FAILED, 503)


def test_a_crash_before_the_answer_is_502(start: Callable[..., Running]) -> None:
    running = start(breaker={"failures": 100, "share": 1.0})
    running.fake.fault = "crash_before"
    assert running.chat().status_code == 502
    assert running.chat(stream=True).status_code == 502
    running.fake.fault = "crash_after"
    assert running.chat().status_code == 502
    assert [r.outcome for r in running.records()] == [Outcome.FAILED] * 3
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})


@pytest.mark.parametrize("fault", ["crash_after", "no_done"])
def test_a_stream_that_is_cut_ends_with_an_error_event_and_no_done(
    running: Running, fault: str
) -> None:
    running.fake.fault = fault
    answer = running.chat(stream=True)
    assert answer.status_code == 200
    found = events(answer.content)
    assert "error" in found[-1]
    assert b"[DONE]" not in answer.content
    (record,) = running.records()
    assert record.outcome == Outcome.INCOMPLETE
    assert record.choices


def test_an_error_in_the_stream_passes_and_counts_as_incomplete(running: Running) -> None:
    running.fake.fault = "error_object"
    answer = running.chat(stream=True)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert any(isinstance(e, dict) and "error" in e for e in events(answer.content))
    (record,) = running.records()
    assert (record.outcome, record.error) == (Outcome.INCOMPLETE, "engine died")


def test_garbage_passes_as_it_came_and_is_never_trained_on(running: Running) -> None:
    running.fake.fault = "garbage"
    answer = running.chat(stream=True)
    assert b": comment\n\ndata: {not json\n\nevent: odd\ndata: 1\n\n\x00\xff\n\n" in answer.content
    (record,) = running.records()
    assert record.outcome == Outcome.INCOMPLETE


def test_hangs_end_at_their_limits(start: Callable[..., Running]) -> None:
    running = start(upstream={"first_byte_seconds": 0.3, "idle_seconds": 0.3})
    running.fake.fault = "hang_before"
    answer = running.chat()
    assert answer.status_code == 504
    assert answer.headers["x-should-retry"] == "true"
    running.fake.fault = "hang_after"
    assert "error" in events(running.chat(stream=True).content)[-1]
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})
    assert [r.outcome for r in running.records()] == [Outcome.FAILED, Outcome.INCOMPLETE]


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_engine_errors_pass_with_status_body_and_retry_headers(
    running: Running, status: str
) -> None:
    running.fake.fault = status
    answer = running.chat(stream=True)
    assert answer.status_code == int(status)
    assert answer.json()["error"]["message"] == f"fault {status}"
    assert answer.headers.get("retry-after") == (None if status == "500" else "7")
    assert len(running.fake.requests) == 1
    assert running.records()[0].outcome == Outcome.FAILED


def test_an_unknown_model_gets_the_engines_own_404(running: Running) -> None:
    answer = running.chat(model="gpt-17")
    assert answer.status_code == 404
    assert "gpt-17" in answer.json()["error"]["message"]
    (record,) = running.records()
    assert (record.policy, record.policy_version) == (None, None)


def test_the_event_that_was_held_when_the_engine_fell_silent_still_arrives(
    start: Callable[..., Running],
) -> None:
    running = start(upstream={"idle_seconds": 0.3})
    wish = {"stream": True, "logprobs": True, "top_logprobs": 1}  # so that usage is asked for
    whole = events(running.chat(**wish).content)
    running.fake.fault, running.fake.fault_after = "hang_after", running.fake.chunks_sent - 1
    cut = events(running.chat(**wish).content)
    assert "error" in cut[-1]
    assert cut[-2]["choices"][0]["finish_reason"] == whole[-2]["choices"][0]["finish_reason"]
