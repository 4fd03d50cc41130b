"""One chat call: what the client sees, what the engine saw, what was recorded."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, wait_for
from trajectories.model import Outcome, Transition


def events(raw: bytes) -> list[Any]:
    found = [part[6:] for part in raw.split(b"\n\n") if part.startswith(b"data: ")]
    return [part if part == b"[DONE]" else json.loads(part) for part in found]


def without_chance(content: Any) -> Any:
    """Without what differs between two answers of the same engine."""
    if isinstance(content, dict):
        return {k: without_chance(v) for k, v in content.items() if k not in ("id", "created")}
    return [without_chance(v) for v in content] if isinstance(content, list) else content


def test_a_request_becomes_a_transition_with_aligned_tokens(running: Running) -> None:
    answer = running.chat(temperature=0.5, headers={"x-task-id": "t9"})
    assert answer.status_code == 200
    assert answer.json()["model"] == "policy"
    assert answer.headers["x-ratchet-policy"] == "policy@0"
    (record,) = running.records()
    assert isinstance(record, Transition)
    assert record.choices[0].is_aligned
    assert record.prompt_token_ids
    assert record.response_id == answer.json()["id"]
    assert record.trajectory_id == answer.headers["x-ratchet-trajectory-id"]
    assert record.id == answer.headers["x-request-id"]
    assert (record.task, record.session_source, record.outcome) == ("t9", "header", "complete")
    assert (record.policy, record.policy_version, record.model) == ("policy", 0, "base")
    assert record.sampling.temperature == 0.5
    assert record.request["model"] == "policy"


WISHES: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"max_tokens": 2},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 2},
    {"return_token_ids": True},
    {"logprobs": True, "return_token_ids": True},
    {"top_logprobs": 2},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream_options": {"continuous_usage_stats": True}},
    {"stream_options": {}},
    {"stream_options": None, "n": 3},
]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("has_tools", [False, True])
def test_the_client_sees_what_the_engine_would_have_sent_without_us(
    running: Running, is_streamed: bool, has_tools: bool
) -> None:
    if has_tools:
        running.fake.reply = lambda model, messages: [
            {"name": "find", "arguments": '{"q": "Seoul weather today"}'}
        ]
    for wish in WISHES:
        if not is_streamed and "stream_options" in wish:
            continue
        body = {"messages": [{"role": "user", "content": "hi"}], "model": "base", **wish}
        body["stream"] = is_streamed
        direct = httpx2.post(f"{running.fake.url}/v1/chat/completions", json=body)
        through = running.client.post("/v1/chat/completions", json=body)
        assert through.status_code == direct.status_code
        assert through.headers["content-type"] == direct.headers["content-type"]
        if is_streamed and direct.status_code == 200:
            assert without_chance(events(through.content)) == without_chance(
                events(direct.content)
            ), wish
        else:
            assert without_chance(through.json()) == without_chance(direct.json()), wish


def test_streamed_and_whole_answers_are_recorded_alike(running: Running) -> None:
    for calls in (False, True):
        if calls:
            running.fake.reply = lambda m, _: [{"name": "find", "arguments": '{"q": "a b c"}'}]
        running.chat(stream=False)
        running.chat(stream=True)
        running.chat(stream=True, n=2)
        whole, streamed, several = running.records()[-3:]
        assert whole.choices[0].token_ids == streamed.choices[0].token_ids
        assert whole.choices[0].logprobs == streamed.choices[0].logprobs
        assert whole.choices[0].finish_reason == streamed.choices[0].finish_reason
        kept = [{k: v for k, v in r.choices[0].message.items() if v} for r in (whole, streamed)]
        for message in kept:
            for call in message.get("tool_calls", []):
                call.pop("id")
        assert kept[0] == kept[1]
        assert whole.usage["total_tokens"] == streamed.usage["total_tokens"]
        assert [c.is_aligned for c in several.choices] == [True, True]
        assert several.usage["completion_tokens"] == sum(len(c.token_ids) for c in several.choices)
        assert streamed.outcome == Outcome.COMPLETE


def test_a_request_id_of_the_engine_gives_way_to_ours(start: Callable[..., Running]) -> None:
    class Named(FakeVLLM):
        async def _chat(self, request: Any) -> Any:
            response = await super()._chat(request)
            response.headers["x-request-id"] = "theirs"
            return response

    with Named().serve() as engine:
        answer = start(fake=engine).chat()
        (own,) = answer.headers.get_list("x-request-id")
        assert own.startswith("tr_")


def test_the_first_byte_leaves_before_the_second_chunk_arrives(running: Running) -> None:
    running.fake.hold()
    body = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        parts = answer.iter_raw()
        first = next(parts)
        assert b'"role":"assistant"' in first
        assert (
            running.fake.chunks_sent <= 1
        )  # it counts what it has sent, and may not have come to that
        running.fake.let_go()
        rest = b"".join(parts)
    assert rest.endswith(b"data: [DONE]\n\n")


def test_a_transition_is_in_the_spool_before_the_last_byte(running: Running) -> None:
    body = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for part in answer.iter_raw():
            if b"[DONE]" in part:
                assert len(running.records()) == 1
                break
        else:
            pytest.fail("no [DONE]")


def test_a_client_that_hangs_up_frees_the_engine_and_is_still_recorded(running: Running) -> None:
    running.fake.chunk_seconds = 0.05
    running.fake.reply = lambda model, messages: "word " * 500
    body = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        parts = answer.iter_raw()
        assert b'"content":"word"' in next(parts) + next(parts)
        assert running.services.policies.default.in_flight.by_version() == {0: 1}
    left = time.monotonic()
    wait_for(lambda: running.fake.cancelled, 2)
    assert time.monotonic() - left < 1
    (record,) = wait_for(running.records)
    assert record.outcome == Outcome.DISCONNECTED
    assert record.choices[0].token_ids
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})


def test_a_client_that_leaves_before_the_first_byte_is_recorded_too(running: Running) -> None:
    running.fake.fault = "hang_before"
    with pytest.raises(httpx2.TimeoutException):
        running.client.post(
            "/v1/chat/completions",
            json={"model": "policy", "messages": []},
            timeout=0.3,
        )
    (record,) = wait_for(running.records)
    assert record.outcome == Outcome.DISCONNECTED
    wait_for(lambda: running.services.policies.default.in_flight.by_version() == {})


def test_an_odd_retry_count_is_no_retry(running: Running) -> None:
    for count in ("²".encode("latin-1"), b"-1", b"1000", b"x", b""):
        headers = {"x-stainless-retry-count": count}
        body = {"model": "policy", "messages": []}
        answer = running.client.post("/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, count
    assert {record.attempt for record in running.records()} == {0}
    running.chat(headers={"x-stainless-retry-count": "2"})
    assert running.records()[-1].attempt == 2


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_record_that_cannot_be_made_costs_the_client_nothing(
    running: Running, is_streamed: bool
) -> None:
    running.services.spool.producer = "\ud800"  # no JSON of it
    answer = running.chat(stream=is_streamed)
    assert answer.status_code == 200
    assert answer.content.endswith(b"data: [DONE]\n\n" if is_streamed else b"}")
    assert running.records() == []
    assert "ratchet_records_dropped_total 1.0" in running.client.get("/metrics").text


def test_ids_are_read_and_not_forwarded(running: Running) -> None:
    running.chat(
        path="/a/support/t/s-1/v1/chat/completions?session=other",
        session_id="b1",
        task_id="b2",
        metadata={"task_id": "t1", "k": "v"},
        user="someone",
        headers={"x-session-id": "h1", "x-ratchet-secret": "1", "authorization": "Bearer mine"},
    )
    (record,) = running.records()
    assert (record.session_id, record.session_source, record.task, record.agent) == (
        "s-1", "url", "t1", "support",
    )  # fmt: skip
    seen = running.fake.requests[-1]
    assert seen.body["metadata"] == {"task_id": "t1", "k": "v"}
    assert seen.body["user"] == "someone"
    assert not {"session_id", "task_id"} & set(seen.body)
    assert not {"x-session-id", "x-ratchet-secret", "authorization"} & set(seen.headers)
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.body["return_token_ids"] is True
    assert seen.body["logprobs"] is True


def test_the_upstream_key_replaces_the_clients(start: Callable[..., Running]) -> None:
    running = start(gateway={"api_key": "ours"}, upstream={"api_key": "theirs"})
    assert running.chat().status_code == 401
    assert running.chat(headers={"x-api-key": "wrong"}).json()["error"]["code"] == "bad_key"
    for name, value in [
        ("authorization", "Bearer ours"),
        ("api-key", "ours"),
        ("x-api-key", "ours"),
    ]:
        assert running.chat(headers={name: value}).status_code == 200
        seen = running.fake.requests[-1].headers
        assert seen["authorization"] == "Bearer theirs"
        assert not {"api-key", "x-api-key"} & set(seen)
    assert running.client.get("/healthz").status_code == 200
    assert running.client.head("/").status_code == 200
    assert running.client.head("/t/s1/v1").status_code == 200
    assert running.client.get("/training/status").status_code == 401


def test_a_missing_v1_is_added_and_a_doubled_one_collapsed(running: Running) -> None:
    for path in ("/chat/completions", "/v1/v1/chat/completions", "/t/s1/chat/completions"):
        assert running.chat(path=path).status_code == 200, path
    assert running.chat(path="/t/a%2Fb/v1/chat/completions").status_code == 400
    assert running.chat(path=f"/t/{'x' * 129}/v1/chat/completions").status_code == 400


def test_the_same_session_is_one_trajectory(running: Running) -> None:
    by_url = running.chat(path="/t/s1/v1/chat/completions").headers["x-ratchet-trajectory-id"]
    by_header = running.chat(headers={"x-session-id": "s1"}).headers["x-ratchet-trajectory-id"]
    by_body = running.chat(session_id="s1").headers["x-ratchet-trajectory-id"]
    assert by_url == by_header == by_body
    assert running.chat().headers["x-ratchet-trajectory-id"] != by_url


def test_openai_python_works_unchanged(running: Running) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{running.url}/t/s7/v1", api_key="any") as client:
        whole = client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": "hi"}]
        )
        assert whole.choices[0].message.content
        text = ""
        for chunk in client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": "hi"}], stream=True
        ):
            text += chunk.choices[0].delta.content or ""
        assert text == whole.choices[0].message.content
        running.fake.fault = "crash_after"
        with pytest.raises(openai.APIError):
            list(
                client.chat.completions.create(
                    model="policy", messages=[{"role": "user", "content": "hi"}], stream=True
                )
            )
    assert {record.session_id for record in running.records()} == {"s7"}


def test_a_streams_tokens_are_counted_from_their_ids_and_usage_is_not_asked_for(
    running: Running,
) -> None:
    running.chat()
    running.chat(stream=True)
    running.chat(stream=True, logprobs=True, top_logprobs=1)  # folded later: the engine has to say
    wait_for(lambda: len(running.records()) == 3)
    whole, counted, told = running.records()
    assert "stream_options" not in running.fake.requests[1].body
    assert running.fake.requests[2].body["stream_options"] == {"include_usage": True}
    assert whole.usage["total_tokens"] > 0
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole.usage[name] == counted.usage[name] == told.usage[name]
