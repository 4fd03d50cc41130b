"""What is not ours goes through untouched; what only an operator may do does not."""

from collections.abc import Callable

import httpx2
import pytest

from tests.gateway.conftest import Running, wait_for
from trajectories.resources import PolicyVersion, VersionState


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/t/s1/v1/load_lora_adapter",
        "/v1/v1/load_lora_adapter",
        "/v1//load_lora_adapter",
        "/v1/./load_lora_adapter",
        "/v1/x/../load_lora_adapter",
        "/v1/%6Coad_lora_adapter",
        "/v1/x/%2e%2e/load_lora_adapter",
        "/v1/x%2f..%2fload_lora_adapter",
        "/v1/LOAD_LORA_ADAPTER",
        "/v1/load_lora_adapter/",
        "/invocations",
        "/pause",
        "/collective_rpc",
        "/tokenize",
        "/adapters",
        "/metrics/../pause",
        "/docs",
        "/openapi.json",
    ],
)
def test_admin_routes_do_not_exist(running: Running, path: str) -> None:
    for method in ("POST", "GET"):
        answer = running.client.request(method, path, json={"lora_name": "x", "lora_path": "/etc"})
        assert answer.status_code == 404, (method, path)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert running.fake.requests == []
    assert running.fake.adapters == {}


def test_other_routes_pass_with_query_body_and_headers(running: Running) -> None:
    body = bytes(range(256)) * 1000
    answer = running.client.post(
        "/a/x/t/s1/v1/files/upload?purpose=a&b=%20c", content=body, headers={"openai-beta": "v2"}
    )
    assert answer.status_code == 200
    assert answer.headers["x-engine"] == "fake"
    seen = running.fake.requests[-1]
    assert (seen.path, seen.raw) == ("/v1/files/upload?purpose=a&b=%20c", body)
    assert seen.headers["openai-beta"] == "v2"
    assert running.client.get("/v1/files?after=1").json()["path"] == "/v1/files?after=1"
    completion = running.client.post(
        "/v1/completions", json={"model": "base", "prompt": [1, 2, 3], "prompt_logprobs": 0}
    )
    assert completion.json()["choices"][0]["prompt_logprobs"][0] is None


def test_no_route_generates_past_the_record(running: Running) -> None:
    body = {"model": "policy-v1", "messages": [[{"role": "user", "content": "hi"}]]}
    for path in (
        "/v1/chat/completions/batch",
        "/v1/completions/batch",
        "/chat/completions/batch",
        "/a/x/t/s1/v1/chat/completions/batch",
        "/openai/deployments/acme-v2/chat/completions/batch",
        "/v1/chat/completions/any/thing/new",
        "/v1/responses/compact",
        "/v1/messages/batches",
        "/v1/audio/transcriptions",
        "/v1/audio/translations/",
        "/v1/systemone",
    ):
        answer = running.client.post(path, json=body)
        assert answer.status_code == 404, path
        assert ("type" in answer.json()) == ("messages/" in path)  # as Anthropic writes errors
        assert "not recorded" in answer.json()["error"]["message"]
    assert running.fake.requests == []


def test_models_are_the_aliases_and_what_the_engine_lists_without_our_adapters(
    running: Running,
) -> None:
    running.fake.adapters.update({"policy-v1-abc": "/x", "someone-elses": "/y"})
    registry = running.registry
    registry.add(
        PolicyVersion(
            policy="policy", version=1, model="policy-v1-abc", state=VersionState.CANDIDATE
        )
    )
    registry.promote(1)
    wait_for(lambda: running.services.policies.default.snapshot.current == 1)
    listed = running.client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == ["policy", "base", "someone-elses"]
    assert listed[0]["policy_version"] == 1
    assert running.client.get("/v1/models/policy").json()["policy_version"] == 1


def test_models_without_an_engine_are_the_aliases(start: Callable[..., Running]) -> None:
    running = start(upstream={"url": "http://127.0.0.1:9"}, gateway={"aliases": ("policy", "*")})
    assert [e["id"] for e in running.client.get("/v1/models").json()["data"]] == ["policy"]
    assert running.client.get("/healthz").status_code == 200
    assert running.client.get("/readyz").status_code == 503
    refused = running.client.post("/v1/embeddings", json={"model": "base", "input": "x"})
    assert refused.status_code == 503


def test_a_client_that_leaves_before_the_first_byte_ends_the_request(running: Running) -> None:
    running.fake.fault = "hang_before"
    with pytest.raises(httpx2.TimeoutException):
        running.client.post("/v1/completions", json={"model": "base", "prompt": "x"}, timeout=0.2)
    ended = 'ratchet_requests_total{route="completions",status="499"} 1.0'
    wait_for(lambda: ended in running.client.get("/metrics").text, 2)
