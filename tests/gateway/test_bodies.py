"""Bad input is a 400 (or 413, 422) in OpenAI's shape, on every route; never a 500."""

import socket

import pytest

from tests.gateway.conftest import Running

BAD = {
    "empty": b"",
    "not json": b"{oops",
    "not utf-8": b'{"model":"\xff"}',
    "nan": b'{"model":"policy","messages":[],"temperature":NaN}',
    "infinity": b'{"model":"policy","messages":[],"temperature":-Infinity}',
    "1e400": b'{"model":"policy","messages":[],"temperature":1e400}',
    "a huge integer": b'{"model":"policy","messages":[],"seed":' + b"9" * 5000 + b"}",
    "a lone surrogate": b'{"model":"policy","messages":[],"user":"\\ud800"}',
    "too deep": b'{"model":"policy","messages":[],"x":' + b"[" * 300 + b"]" * 300 + b"}",
    "far too deep": b"[" * 100_000,
    "a list": b"[1]",
    "a string": b'"hi"',
    "null": b"null",
    "truncated": b'{"model":"policy","messages":[{"role":"user"',
    "a NUL": b'{"model":"po\x00licy"}',
}
OBJECTS = {
    "no model": b'{"messages":[]}',
    "model null": b'{"model":null,"messages":[]}',
    "model a number": b'{"model":1,"messages":[]}',
    "no messages": b'{"model":"policy"}',
    "messages a string": b'{"model":"policy","messages":"hi"}',
    "messages of strings": b'{"model":"policy","messages":["hi"]}',
}
ROUTES = (
    "/v1/chat/completions",
    "/v1/feedback",
    "/feedback",
    "/t/s1/v1/feedback",
    "/training/trigger",
)


@pytest.mark.parametrize("route", ROUTES)
def test_a_bad_body_is_a_clear_400_and_never_a_500(running: Running, route: str) -> None:
    for name, body in BAD.items():
        if route == "/training/trigger" and not body:
            continue  # no body is a plain wish there
        answer = running.client.post(route, content=body)
        assert answer.status_code == 400, (name, answer.text)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, name
        assert answer.headers["x-should-retry"] == "false"
    assert running.records() == []
    assert running.fake.requests == []


def test_a_chat_body_needs_a_model_and_messages(running: Running) -> None:
    for name, body in OBJECTS.items():
        answer = running.client.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, name
        assert answer.json()["error"]["param"] in ("model", "messages")


ODD = [
    {"stream": "yes"}, {"stream_options": 3, "stream": True}, {"n": "2"}, {"logprobs": "x"},
    {"metadata": []}, {"tools": {"a": 1}}, {"tools": [1, None]}, {"tool_choice": 5},
    {"response_format": "json"}, {"temperature": "hot"}, {"top_k": True}, {"seed": 2**63},
    {"session_id": {"a": 1}}, {"task_id": [1]}, {"user": None}, {"x": {"y": [[[[[1]]]]]}},
    {"messages": []}, {"messages": [{}]}, {"messages": [{"role": 5, "content": {"a": 1}}]},
]  # fmt: skip


def test_odd_but_valid_bodies_are_the_engines_to_judge(running: Running) -> None:
    running.fake.reply = lambda model, messages: "ok"
    for body in ODD:
        if body.get("n") == "2" or body.get("stream_options") == 3:
            continue  # the fake itself does not check these
        answer = running.chat(**body)
        assert answer.status_code in (200, 400), body
    assert len(running.records()) == len(ODD) - 2


def test_a_large_body_is_refused_before_it_is_held(running: Running) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n"
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"POST /v1/feedback HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            raw.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_wrong_method_gets_405_with_allow(running: Running) -> None:
    for path, method, allowed in [
        ("/v1/chat/completions", "GET", "POST"),
        ("/t/s1/v1/chat/completions", "DELETE", "POST"),
        ("/v1/feedback", "PUT", "GET, POST"),
        ("/training/status", "POST", "GET"),
        ("/v1/models", "DELETE", "GET"),
        ("/v1/feedback/fb-1", "POST", "GET, DELETE"),
    ]:
        answer = running.client.request(method, path)
        assert answer.status_code == 405, path
        assert answer.headers["allow"] == allowed
        assert answer.json()["error"]["code"] == "method_not_allowed"
