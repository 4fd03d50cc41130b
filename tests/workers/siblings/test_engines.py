"""Idle is what every engine says of itself; who says nothing is busy."""

import pytest

from tests.fakes.vllm import FakeVLLM
from workers.siblings.engines import Engines, requests_in


@pytest.mark.parametrize(
    ("page", "requests"),
    [
        ('vllm:num_requests_running{engine="0"} 2.0\nvllm:num_requests_waiting{engine="0"} 1.0', 3),
        (
            'vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n'
            'vllm:num_requests_waiting{engine="0"} 0.0',
            3,
        ),
        ("vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0", 0),
        ("vllm:num_requests_running 0.0", None),
        ("# HELP vllm:num_requests_running x\nvllm:num_requests_waiting_by_reason 1.0", None),
        ("", None),
    ],
)
def test_what_runs_and_waits_is_read_from_the_page(page: str, requests: float | None) -> None:
    assert requests_in(page) == requests


def test_one_busy_replica_is_enough_to_wait() -> None:
    with FakeVLLM().serve() as one, FakeVLLM().serve() as other:
        engines = Engines([one.url, other.url], busy_requests=1)
        assert engines.is_idle()
        other.waiting = 1
        assert not engines.is_idle()
        assert Engines([one.url, other.url], busy_requests=2).is_idle()
        other.waiting, one.running = 0, 1
        assert not engines.is_idle()


def test_an_engine_that_does_not_answer_is_busy(caplog: pytest.LogCaptureFixture) -> None:
    with FakeVLLM().serve() as gone:
        url = gone.url
    engines = Engines([url], busy_requests=1)
    assert not engines.is_idle()
    assert not engines.is_idle()
    assert len(caplog.records) == 1


def test_the_shortest_context_of_all_engines_counts() -> None:
    with FakeVLLM().serve() as one, FakeVLLM().serve() as other:
        engines = Engines([one.url, other.url], 1, key="k")
        assert engines.context_length() == 2048
        assert one.requests[-1].headers["authorization"] == "Bearer k"
    assert engines.context_length() is None
