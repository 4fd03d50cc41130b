"""Lists of models in every shape, base paths, and methods that a route does not have."""

from collections.abc import Callable

import pytest

from tests.gateway.conftest import Running

PREFIXES = ("", "/t/s1", "/a/sup/t/s1")
ROUTES = {"gpt-5": {"upstream": "other"}, "mine": {"upstream": "policy"}}
UPSTREAMS = {"other": {"url": "http://127.0.0.1:9"}}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/models", "/openai/models?api-version=2024-10-21", "/openai/v1/models"]
)
def test_the_list_holds_what_a_client_may_name(start: Callable[..., Running], path: str) -> None:
    running = start(upstreams=UPSTREAMS, routes=ROUTES)
    listed = running.client.get(path).json()
    assert [entry["id"] for entry in listed["data"]] == ["policy", "mine", "gpt-5", "base"]
    assert running.client.head(path).status_code == 200


def test_azures_deployments_are_our_models(start: Callable[..., Running]) -> None:
    running = start(upstreams=UPSTREAMS, routes=ROUTES)
    models = running.client.get("/v1/models").json()
    assert running.client.get("/openai/deployments?api-version=2022-12-01").json() == models
    one = running.client.get("/openai/deployments/gpt-5?api-version=2022-12-01").json()
    assert one == models["data"][2]


def test_anthropics_clients_get_their_shape(start: Callable[..., Running]) -> None:
    running = start(upstreams=UPSTREAMS, routes=ROUTES)
    headers = {"anthropic-version": "2023-06-01"}
    listed = running.client.get("/v1/models?limit=20", headers=headers).json()
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("policy", "base", False)
    one = running.client.get("/v1/models/gpt-5", headers=headers).json()
    assert (one["type"], one["display_name"]) == ("model", "gpt-5")


def test_a_model_of_the_engine_is_shown_and_none_is_a_404(running: Running) -> None:
    assert running.client.get("/v1/models/base").json()["max_model_len"] == 2048
    running.fake.adapters["org/model"] = "/x"
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        assert running.client.get(path).json()["id"] == "org/model"
    missing = running.client.get("/v1/models/none")
    assert (missing.status_code, missing.headers["x-should-retry"]) == (404, "false")
    assert missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/openai", "/openai/v1", "/v1/v1"])
def test_a_base_url_may_be_probed_without_a_key(
    start: Callable[..., Running], prefix: str, path: str
) -> None:
    running = start(gateway={"api_key": "secret"})
    probed = running.client.head(prefix + path)
    assert (probed.status_code, probed.content) == (200, b"")
    assert running.client.get(prefix + path).status_code == 401
    assert running.fake.requests == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("GET", "/v1/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("GET", "/v1/responses", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/policy", "GET"),
        ("POST", "/openai/deployments", "GET"),
        ("POST", "/openai/deployments/policy", "GET"),
        ("POST", "/v1/responses/resp_1", "GET, DELETE"),
        ("POST", "/v1/responses/resp_1/input_items", "GET"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("PUT", "/v1/feedback", "GET, POST"),
        ("PUT", "/v1/feedback/batch", "POST"),
        ("PUT", "/v1/feedback/fb-1", "GET, DELETE"),
        ("POST", "/v1/trajectories", "GET"),
        ("DELETE", "/healthz", "GET"),
        ("POST", "/metrics", "GET"),
        ("PUT", "/training/status", "GET"),
    ],
)
def test_a_wrong_method_is_a_405_that_names_the_right_one(
    running: Running, method: str, path: str, allowed: str
) -> None:
    refused = running.client.request(method, path)
    assert (refused.status_code, refused.headers["allow"]) == (405, allowed)
    assert refused.json()["error"]["code"] == "method_not_allowed"
    assert running.fake.requests == []


def test_counting_tokens_of_a_response_passes_through(running: Running) -> None:
    path = "/v1/responses/input_tokens"
    assert running.client.post(path, json={"model": "base"}).json()["path"] == path
