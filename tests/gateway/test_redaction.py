"""Secrets in calls and votes: gone before the spool, with the token ids that spell them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.dialects.fold import Folded
from gateway.spool.payload import shipped, stream_payload, whole_payload
from gateway.spool.segments import list_segments
from tests.fakes.answering import answering
from tests.fakes.openai_server import ScriptedServer
from tests.gateway.conftest import Running, wait_for
from trajectories import keys
from trajectories.model import Feedback, Outcome, Transition, unpack_record
from trajectories.privacy.secrets import Redactor

SECRET = "sk-proj-abcdefghijklmnop0123456789"
GONE = "[redacted:api_key]"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": f"use {SECRET}"}]},
    "/v1/completions": {"prompt": f"use {SECRET}"},
    "/v1/responses": {"input": f"use {SECRET}"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": f"use {SECRET}"}]},
}


def spool_bytes(running: Running) -> bytes:
    return b"".join(path.read_bytes() for path in list_segments(running.services.spool.directory))


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_a_client_sent_is_redacted_before_the_spool(
    running: Running, path: str, is_streamed: bool
) -> None:
    running.fake.reply = lambda model, messages: "said nothing"
    body = {"model": "policy", "stream": is_streamed, **BODIES[path]}
    assert running.client.post(path, json=body).status_code == 200
    assert SECRET in running.fake.requests[-1].raw.decode()  # the engine is asked as it was
    (record,) = running.records()
    assert SECRET.encode() not in spool_bytes(running)
    assert GONE in str(record.request)
    assert record.prompt_token_ids == ()
    assert record.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/completions"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_is_redacted_and_loses_its_token_ids(
    running: Running, path: str, is_streamed: bool
) -> None:
    running.fake.reply = lambda model, messages: f"it is {SECRET} ."
    harmless = {"prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    body = {name: harmless.get(name, value) for name, value in BODIES[path].items()}
    answer = running.client.post(path, json={"model": "policy", "stream": is_streamed, **body})
    if not is_streamed:
        assert SECRET in answer.text  # the client gets what was said
    (record,) = running.records()
    assert SECRET.encode() not in spool_bytes(running)
    (choice,) = record.choices
    assert GONE in str(choice.message)
    assert (choice.token_ids, choice.logprobs, choice.is_aligned) == ((), (), False)
    assert record.prompt_token_ids  # they spell the question, which holds nothing


def test_a_clean_call_keeps_all_its_token_ids(running: Running) -> None:
    running.chat()
    (record,) = running.records()
    assert record.prompt_token_ids
    assert record.choices[0].is_aligned


def test_one_of_several_answers_is_dropped_alone(running: Running) -> None:
    texts = iter([f"a {SECRET}", "b", f"c {SECRET}", "d"] * 4)
    running.fake.reply = lambda model, messages: next(texts)
    running.chat(n=2)
    (record,) = running.records()
    aligned = [choice.is_aligned for choice in record.choices]
    clean = [GONE not in str(choice.message) for choice in record.choices]
    assert aligned == clean


def test_a_stream_that_is_kept_as_it_came_is_redacted_before_redis(running: Running) -> None:
    prompt = ["harmless", f"use {SECRET} "]
    body = {"model": "policy", "stream": True, "echo": True, "logprobs": 1, "prompt": prompt}
    answer = running.client.post("/v1/completions", json=body)
    assert SECRET in answer.text
    stream = keys.traffic(running.services.gateway_id)
    ((_, fields),) = wait_for(lambda: running.redis.xrange(stream))
    payload = fields[b"r"]
    assert SECRET.encode() not in payload
    assert payload.count(GONE.encode()) >= 2


@pytest.mark.parametrize("path", [path for path in BODIES if path != "/v1/messages"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_large_call_with_a_secret_is_redacted_on_its_way_to_redis(
    running: Running, path: str, is_streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []
    clean = Redactor.clean

    def noted(self: Redactor, value: Any) -> Any:
        threads.append(asyncio._get_running_loop() is None)
        return clean(self, value)

    monkeypatch.setattr(Redactor, "clean", noted)
    running.fake.reply = lambda model, messages: f"it is {SECRET} ."
    body = {"model": "policy", "stream": is_streamed, "metadata": {"x": ["ab"] * 60_000}}
    assert running.client.post(path, json={**body, **BODIES[path]}).status_code == 200
    stream = keys.traffic(running.services.gateway_id)
    ((_, fields),) = wait_for(lambda: running.redis.xrange(stream))
    record = unpack_record(fields[b"r"])
    assert isinstance(record, Transition)
    assert SECRET.encode() not in fields[b"r"]
    assert GONE in str(record.request)
    assert record.prompt_token_ids == ()
    if path != "/v1/completions":  # the engine's own words there
        assert GONE in str(record.choices[0].message)
        assert record.choices[0].token_ids == ()
    assert record.outcome is Outcome.COMPLETE
    assert threads
    assert all(threads), "it was cleaned on the event loop"


def test_a_large_call_too_deep_to_be_cleaned_holds_nobody_up() -> None:
    deep = b"[" * 200 + b'"%b"' % SECRET.encode() + b"]" * 200
    large = b'{"x":[%b],"y":[%b%b%b]}' % (
        b",".join([b'"ab"'] * 60_000),
        b"[" * 300,
        deep,
        b"]" * 300,
    )
    record = {
        **{"id": "tr_1", "trajectory_id": "traj_1", "gateway": "g", "model": "m"},
        **{"started_at": 1.0, "latency_seconds": 0.1, "error": None, "outcome": None},
        "response_id": None,
        "request": orjson.Fragment(large),
    }
    redactor = Redactor()
    payloads = [
        whole_payload(dict(record), Folded(), redactor),
        stream_payload(dict(record), "chat", b"", redactor),
    ]
    for payload in payloads:
        found = unpack_record(shipped(payload, redactor))
        assert isinstance(found, Transition)
        assert (found.request, found.outcome) == ({}, Outcome.INCOMPLETE)
        assert "could not be written" in str(found.error)


@pytest.mark.parametrize("status", [400, 429])
def test_an_error_that_quotes_a_secret_is_recorded_without_it(
    start: Callable[..., Running], status: int
) -> None:
    with ScriptedServer().serve() as other:
        route = {"upstream": "other", "model": "gpt-4o-mini"}
        running = start(upstreams={"other": {"url": other.url}}, routes={"gpt": route})
        content = f"Fail with {status} {SECRET}"
        running.chat(model="gpt", messages=[{"role": "user", "content": content}])
        (record,) = running.records()
    assert record.outcome is Outcome.FAILED
    assert SECRET.encode() not in spool_bytes(running)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("model", ["policy", "far"])
def test_an_error_of_any_route_that_quotes_our_key_is_passed_on_without_it(
    start: Callable[..., Running], path: str, model: str
) -> None:
    key = "the-engines-own/key"
    said = {"error": {"message": f"wrong key {key}", "type": "invalid_request_error"}}
    with answering(lambda asked: (400, json.dumps(said).replace("/", "\\/").encode())) as engine:
        running = start(
            upstream={"url": engine.url, "api_key": key},
            upstreams={"far": {"url": engine.url, "api_key": key, "dialects": ["messages"]}},
            routes={"far": {"upstream": "far", "model": "far"}},
        )
        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        answer = running.client.post(path, json=body)
        assert engine.asked[-1].headers["authorization"].endswith(key)
    assert answer.status_code == 400
    assert "wrong key [redacted:upstream_key]" in answer.json()["error"]["message"]


def test_names_that_hold_a_secret_are_redacted(running: Running) -> None:
    running.chat(f"/a/{SECRET}/t/{SECRET}/v1/chat/completions")
    running.chat(session_id=SECRET, task_id=SECRET, headers={"x-session-id": SECRET})
    assert len(running.records()) == 2
    assert SECRET.encode() not in spool_bytes(running)


def test_a_vote_is_redacted_in_all_that_was_said(running: Running) -> None:
    body = {
        "response_id": "chatcmpl-1",
        "value": 1,
        "comment": f"my key is {SECRET}",
        "correction": [{"role": "assistant", "content": SECRET}],
        "metadata": {"deep": [{"er": SECRET}]},
        "unknown_field": SECRET,
        "source": {"type": "human", "id": SECRET},
    }
    assert running.client.post("/v1/feedback", json=body).status_code == 202
    (feedback,) = running.records(Feedback)
    assert feedback.comment == f"my key is {GONE}"
    assert SECRET.encode() not in spool_bytes(running)


def test_the_callers_own_key_and_the_upstreams_are_known(start: Callable[..., Running]) -> None:
    running = start(
        gateway={"api_key": "the-gateways-own"}, upstream={"api_key": "the-engines-own"}
    )
    content = "the-gateways-own and the-engines-own"
    headers = {"authorization": "Bearer the-gateways-own", "cookie": "session=the-cookie"}
    running.chat(messages=[{"role": "user", "content": content}], headers=headers)
    (record,) = running.records()
    assert record.request["messages"][0]["content"] == (
        "[redacted:gateway_key] and [redacted:upstream_key]"
    )
    for secret in (b"the-gateways-own", b"the-engines-own", b"the-cookie"):
        assert secret not in spool_bytes(running)


def test_a_response_that_is_kept_is_redacted_in_redis(running: Running) -> None:
    body = {"model": "policy", "input": f"use {SECRET}"}
    first = running.client.post("/v1/responses", json=body).json()
    name = keys.kept_response("default", first["id"])
    kept = wait_for(lambda: running.redis.get(name))
    assert SECRET.encode() not in kept
    assert GONE.encode() in kept
    more = {"model": "policy", "input": "go on", "previous_response_id": first["id"]}
    assert running.client.post("/v1/responses", json=more).status_code == 200
    assert SECRET in running.fake.requests[-1].raw.decode()  # from memory, as it was said


def test_it_can_be_switched_off(start: Callable[..., Running]) -> None:
    running = start(privacy={"redact_secrets": False})
    running.chat(messages=[{"role": "user", "content": SECRET}])
    (record,) = running.records()
    assert record.request["messages"][0]["content"] == SECRET
    assert record.prompt_token_ids
