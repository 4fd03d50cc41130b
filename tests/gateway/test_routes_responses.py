"""Responses asked for again: from our store, for their tenant; else from who may know them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import httpx2
import pytest

from tests.fakes.openai_server import ScriptedServer
from tests.gateway.conftest import Running, wait_for
from trajectories import keys
from trajectories.access import KeyStore
from trajectories.connection import Redis

SAID = [
    {"role": "user", "content": "one"},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "two"},
]


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    with ScriptedServer().serve() as server:
        yield server


def native(server: ScriptedServer, **fields: Any) -> dict[str, Any]:
    return {"url": server.url, "dialects": ("responses",), **fields}


def respond(running: Running, said: Any = "hi", **body: Any) -> dict[str, Any]:
    headers = body.pop("headers", {})
    answer = running.client.post(
        "/v1/responses", json={"model": "policy", "input": said, **body}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["x-should-retry"] == "false"
    return answer.status_code, answer.json()["error"]["code"]


def test_a_response_is_given_again_as_it_was(running: Running) -> None:
    made = respond(running)
    for path in ("/v1/responses", "/t/s1/v1/responses", "/openai/responses", "/responses"):
        again = running.client.get(f"{path}/{made['id']}?include=message.output_text.logprobs")
        assert again.status_code == 200
        assert again.json() == made
    assert running.client.head(f"/v1/responses/{made['id']}").status_code == 200


def test_a_streamed_response_is_given_again_too(running: Running) -> None:
    body = {"model": "policy", "input": "hi", "stream": True}
    events = running.client.post("/v1/responses", json=body).text
    made = events.split('"id":"resp_')[1].split('"')[0]
    again = running.client.get(f"/v1/responses/resp_{made}").json()
    assert (again["status"], again["output"][0]["role"]) == ("completed", "assistant")
    refused = running.client.get(f"/v1/responses/resp_{made}?stream=true")
    assert code_of(refused) == (400, "bad_request")


def test_a_response_outlives_the_process_that_made_it(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    first = start(redis=redis)
    made = respond(first)
    wait_for(lambda: redis.exists(keys.kept_response("default", made["id"])))
    second = start(redis=redis)
    assert second.client.get(f"/v1/responses/{made['id']}").json() == made


def test_its_input_is_listed_in_pages(running: Running) -> None:
    path = f"/v1/responses/{respond(running, SAID)['id']}/input_items"
    asked = running.client.get(path).json()
    kinds = ["function_call_output", "function_call", "message"]
    assert [item["type"] for item in asked["data"]] == kinds
    assert not asked["has_more"]
    assert (asked["first_id"], asked["last_id"]) == tuple(asked["data"][i]["id"] for i in (0, 2))
    first = running.client.get(f"{path}?order=asc&limit=2").json()
    assert [item["type"] for item in first["data"]] == ["message", "function_call"]
    assert first["has_more"]
    after = f"{path}?order=asc&limit=2&after={first['last_id']}"
    rest = running.client.get(after).json()
    assert [item["type"] for item in rest["data"]] == ["function_call_output"]
    assert not rest["has_more"]
    empty = running.client.get(f"{path}?after={asked['last_id']}").json()
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=none"])
def test_what_is_no_page_is_a_400_that_names_the_parameter(running: Running, query: str) -> None:
    refused = running.client.get(f"/v1/responses/{respond(running)['id']}/input_items?{query}")
    assert code_of(refused) == (400, "bad_request")
    assert refused.json()["error"]["param"] == query.partition("=")[0]


def test_a_deleted_response_is_gone(running: Running) -> None:
    made = respond(running)["id"]
    gone = running.client.delete(f"/v1/responses/{made}")
    assert gone.json() == {"id": made, "object": "response", "deleted": True}
    assert code_of(running.client.get(f"/v1/responses/{made}")) == (404, "response_not_found")
    assert code_of(running.client.delete(f"/v1/responses/{made}"))[0] == 404
    follow = {"model": "policy", "input": "go on", "previous_response_id": made}
    refused = running.client.post("/v1/responses", json=follow)
    assert refused.json()["error"]["code"] == "previous_response_not_found"


def test_a_response_that_has_ended_cannot_be_cancelled(running: Running) -> None:
    made = respond(running)["id"]
    ended = running.client.post(f"/v1/responses/{made}/cancel")
    assert code_of(ended) == (400, "not_cancellable")
    assert code_of(running.client.post("/v1/responses/resp_none/cancel"))[0] == 404


def test_a_response_that_was_not_to_be_stored_is_not_there(running: Running) -> None:
    made = respond(running, store=False)["id"]
    assert code_of(running.client.get(f"/v1/responses/{made}")) == (404, "response_not_found")
    assert len(running.records()) == 1


def test_another_tenants_response_is_as_if_it_were_not(start: Callable[..., Running]) -> None:
    redis: Redis = fakeredis.FakeRedis()

    def header(**fields: Any) -> dict[str, str]:
        made = KeyStore(redis).create(name="k", scopes=["inference"], now=time.time(), **fields)
        return {"authorization": f"Bearer {made[1]}"}

    ours, theirs = header(tenant="acme"), header(tenant="other")
    narrow = header(tenant="acme", models=frozenset({"policy"}))
    running = start(redis=redis, gateway={"require_keys": True})
    path = f"/v1/responses/{respond(running, headers=ours)['id']}"
    for method, below in (
        ("GET", ""),
        ("GET", "/input_items"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ):
        refused = running.client.request(method, path + below, headers=theirs)
        assert code_of(refused) == (404, "response_not_found")
    assert running.client.get(path, headers=ours).status_code == 200
    # It asks no model, so a key for some models may do it.
    assert running.client.delete(path, headers=narrow).status_code == 200


def test_what_we_do_not_know_may_be_known_to_an_upstream_that_speaks_the_dialect(
    start: Callable[..., Running], other: ScriptedServer
) -> None:
    running = start(upstreams={"other": native(other, api_key="theirs")})
    made = respond(running)["id"]
    path = "/v1/responses/resp_theirs"
    found = running.client.get(f"/t/s1{path}?include=x", headers={"openai-beta": "v2"})
    assert found.json() == {"method": "GET", "path": f"{path}?include=x", "size": 0}
    (seen,) = other.requests
    assert seen.headers["authorization"] == "Bearer theirs"
    assert seen.headers["openai-beta"] == "v2"
    running.client.post(f"{path}/cancel", json={})
    running.client.delete(path)
    running.client.get(f"{path}/input_items?limit=1")
    running.client.get(f"/v1/responses/{made}")
    asked = [(seen.method, seen.path) for seen in other.requests[1:]]
    assert asked == [
        ("POST", f"{path}/cancel"),
        ("DELETE", path),
        ("GET", f"{path}/input_items?limit=1"),
    ]


def test_the_first_upstream_that_has_it_answers(
    start: Callable[..., Running], other: ScriptedServer
) -> None:
    from aiohttp import web

    class Empty(ScriptedServer):
        def routes(self) -> list[web.RouteDef]:
            return []

    with Empty().serve() as empty:
        upstreams = {"empty": native(empty), "other": native(other)}
        running = start(upstreams=upstreams)
        found = running.client.post("/v1/responses/resp_theirs/cancel", json={})
        assert found.json()["path"] == "/v1/responses/resp_theirs/cancel"
        assert [seen.path for seen in other.requests] == ["/v1/responses/resp_theirs/cancel"]


def test_without_redis_it_is_given_from_memory_and_not_deleted(
    start: Callable[..., Running],
) -> None:
    server = fakeredis.FakeServer()
    running = start(redis=fakeredis.FakeRedis(server=server))
    made = respond(running)
    server.connected = False
    assert running.client.get(f"/v1/responses/{made['id']}").json() == made
    refused = running.client.delete(f"/v1/responses/{made['id']}")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    # One that is not in memory may be in Redis: that is no 404.
    unknown = "/v1/responses/resp_of_another_process"
    wait_for(lambda: running.client.get(unknown).status_code == 503)
    server.connected = True
    wait_for(lambda: running.client.get(unknown).status_code == 404)


def test_the_openai_sdk_reads_lists_and_deletes(running: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0)
    made = client.responses.create(model="policy", input="hi")
    assert client.responses.retrieve(made.id).output_text == made.output_text
    (item,) = client.responses.input_items.list(made.id)
    assert item.content[0].text == "hi"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    client.close()
