"""Counting tokens, and errors in the shape that Anthropic's clients read."""

from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from tests.fakes.openai_server import ScriptedServer
from tests.fakes.vllm import token_ids
from tests.gateway.conftest import Running, wait_for
from trajectories.access import KeyStore
from trajectories.resources import PolicyVersion, VersionState

PATH = "/v1/messages/count_tokens"
BODY = {
    "model": "policy",
    "system": "be brief",
    "messages": [{"role": "user", "content": "how many words is this"}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
}
COUNT = len(token_ids("system: be brief user: how many words is this"))


@pytest.fixture
def claude() -> Iterator[ScriptedServer]:
    with ScriptedServer().serve() as server:
        yield server


def test_the_policys_own_tokenizer_counts(running: Running) -> None:
    for path in (PATH, f"/t/s1{PATH}?beta=true", "/messages/count_tokens"):
        answer = running.client.post(path, json=BODY)
        assert (answer.status_code, answer.json()) == (200, {"input_tokens": COUNT}), path
    seen = running.fake.requests[-1]
    assert (seen.path, seen.body["model"]) == ("/tokenize", "base")
    assert seen.body["add_generation_prompt"] is True
    assert seen.body["tools"][0]["function"]["name"] == "f"
    assert running.records() == []


def test_an_adapter_is_counted_with_the_base_models_tokenizer(running: Running) -> None:
    registry = running.registry
    state = VersionState.CANDIDATE
    registry.add(PolicyVersion(policy="policy", version=1, model="policy-v1-abc", state=state))
    registry.promote(1)
    wait_for(lambda: running.services.policies.default.snapshot.current == 1)
    # The engine has not loaded it (again) yet.
    assert running.client.post(PATH, json=BODY).json() == {"input_tokens": COUNT}


def test_a_native_upstream_counts_itself(
    start: Callable[..., Running], claude: ScriptedServer
) -> None:
    upstream = {"kind": "anthropic", "url": claude.url, "api_key": "theirs"}
    route = {"upstream": "claude", "model": "claude-sonnet-4-6"}
    running = start(upstreams={"claude": upstream}, routes={"claude-x": route})
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "ours"}
    answer = running.client.post(
        f"{PATH}?beta=true", json={**BODY, "model": "claude-x"}, headers=headers
    )
    assert answer.json()["input_tokens"] > 0
    (seen,) = claude.requests
    assert seen.path == f"{PATH}?beta=true"
    assert seen.body == {**BODY, "model": "claude-sonnet-4-6"}
    assert seen.headers["x-api-key"] == "theirs"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert running.fake.requests == []


def test_what_cannot_be_counted_is_said_so(
    start: Callable[..., Running], claude: ScriptedServer
) -> None:
    upstreams = {"other": {"url": claude.url}}
    running = start(upstreams=upstreams, routes={"gpt": {"upstream": "other"}})
    refused = running.client.post(PATH, json={**BODY, "model": "gpt"})
    assert refused.status_code == 400
    assert refused.json()["type"] == "error"
    assert refused.json()["error"]["message"] == "model: nothing behind `gpt` counts tokens"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({**BODY, "model": "unknown"}, 404, "not_found_error"),
        ({"model": "policy"}, 400, "invalid_request_error"),
        ({**BODY, "messages": [{"role": "user", "content": [{"type": "odd"}]}]}, 400, None),
        ("no object", 400, "invalid_request_error"),
    ],
)
def test_errors_of_counting_are_anthropics(
    running: Running, body: Any, status: int, kind: str | None
) -> None:
    refused = running.client.post(PATH, json=body)
    assert refused.status_code == status
    assert refused.headers["x-should-retry"] == "false"
    content = refused.json()
    assert content["type"] == "error"
    assert content["error"]["type"] == (kind or "invalid_request_error")


def test_an_engine_that_is_down_or_does_not_count_is_no_number(
    start: Callable[..., Running],
) -> None:
    running = start(upstream={"url": "http://127.0.0.1:9"})
    refused = running.client.post(PATH, json=BODY)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["type"] == "overloaded_error"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    start: Callable[..., Running],
) -> None:
    running = start(gateway={"max_body_mb": 0.001})
    refused = running.client.post(PATH, json={**BODY, "system": "x" * 2000})
    assert (refused.status_code, refused.json()["error"]["type"]) == (413, "request_too_large")


def test_a_key_is_asked_for_and_its_models_are_looked_at(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    models = frozenset({"policy"})
    _, key = KeyStore(redis).create(name="k", scopes=["inference"], now=0.0, models=models)
    running = start(redis=redis, gateway={"require_keys": True})
    headers = {"x-api-key": key}
    assert running.client.post(PATH, json=BODY, headers=headers).status_code == 200
    wrong = running.client.post(PATH, json={**BODY, "model": "base"}, headers=headers)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (403, "permission_error")
    missing = running.client.post(PATH, json=BODY)
    assert (missing.status_code, missing.json()["error"]["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("path", ["/v1/messages", PATH])
def test_a_wrong_method_is_a_405_in_anthropics_shape(running: Running, path: str) -> None:
    refused = running.client.get(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert refused.json()["type"] == "error"


def test_what_there_is_not_is_said_to_anthropics_clients_in_their_shape(running: Running) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    for path in ("/v1/models/none", "/nowhere", "/v1/load_lora_adapter", "/t/bad%20id/v1/models"):
        refused = running.client.get(path, headers=headers)
        assert refused.status_code in (400, 404)
        assert refused.json()["type"] == "error", path
        assert refused.json()["request_id"] == refused.headers["x-request-id"]


def test_the_anthropic_sdk_counts_and_lists(running: Running) -> None:
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=running.url, api_key="x", max_retries=0)
    messages = [{"role": "user", "content": "hi"}]
    counted = client.messages.count_tokens(model="policy", messages=messages)
    assert counted.input_tokens == len(token_ids("user: hi"))
    assert [model.id for model in client.models.list()] == ["policy", "base"]
    assert client.models.retrieve("policy").display_name == "policy"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("none")
    client.close()
