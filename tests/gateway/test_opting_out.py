"""What a client may keep from training, and from being recorded at all; through either shell."""

from collections.abc import Callable

import pytest

from tests.fakes.wire import RawServer, Wire
from tests.gateway.conftest import Running

pytestmark = pytest.mark.parametrize("shell", ["protocol", "twin"])


@pytest.mark.parametrize(
    ("value", "is_trainable"), [("1", False), ("true", False), ("0", True), ("false", True)]
)
def test_a_call_may_opt_out_of_training(running: Running, value: str, is_trainable: bool) -> None:
    assert running.chat(headers={"x-ratchet-no-train": value}).status_code == 200
    (record,) = running.records()
    assert record.is_trainable is is_trainable
    assert "x-ratchet-no-train" not in running.fake.requests[-1].headers


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_may_opt_out_of_being_recorded(running: Running, is_streamed: bool) -> None:
    answer = running.chat(stream=is_streamed, headers={"x-ratchet-no-record": "1"})
    assert answer.status_code == 200
    running.chat(headers={"x-ratchet-no-record": "0"})
    (record,) = running.records()
    assert record.id != answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_an_engine_that_answers_nonsense_is_a_502_in_the_clients_dialect(
    start: Callable[..., Running], path: str
) -> None:
    def answer_nonsense(wire: Wire, _: int) -> None:
        wire.read()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        wire.send(head + b"content-length: 4\r\n\r\nnope")

    with RawServer(answer_nonsense).serve() as upstream:
        running = start(upstream={"url": upstream.url})
        messages = [{"role": "user", "content": "x"}]
        body = {"model": "policy", "input": "x", "max_tokens": 5, "messages": messages}
        answer = running.client.post(path, json=body)
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == "the engine's answer is not JSON"
