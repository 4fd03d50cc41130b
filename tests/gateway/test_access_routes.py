"""Keys at the door: every route and scope, other tenants' records, lost stores, canaries."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
import httpx2
import pytest

from gateway.app import create_app
from gateway.auth import needed_scope
from gateway.spool.segments import list_segments
from tests.gateway.conftest import RedisServer, Running, settings_for, wait_for
from tests.key_leak import key_leaks
from trajectories import keys
from trajectories.access import SCOPES, KeyStore, ScopeName
from trajectories.connection import Redis, connect
from trajectories.ids import trajectory_id
from trajectories.model import Choice, Feedback, Transition
from trajectories.settings import RedisSettings

OPEN = None
# Every route of the gateway, and whose keys open it. A new one has to be added here.
ROUTES: dict[tuple[str, str], set[ScopeName] | None] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("HEAD", "/"): OPEN,
    ("HEAD", "/v1"): OPEN,
    ("HEAD", "/openai/v1/"): OPEN,
    ("POST", "/v1/chat/completions"): {"inference"},
    ("POST", "/v1/completions"): {"inference"},
    ("POST", "/v1/embeddings"): {"inference"},
    ("POST", "/v1/responses"): {"inference"},
    ("POST", "/v1/messages"): {"inference"},
    ("GET", "/v1/models"): {"inference", "read"},
    ("GET", "/v1/models/{name:path}"): {"inference", "read"},
    ("HEAD", "/v1/models"): {"inference", "read"},
    ("HEAD", "/v1/models/{name:path}"): {"inference", "read"},
    ("POST", "/v1/models/{name:path}"): {"inference"},
    ("GET", "/v1/deployments"): {"inference", "read"},
    ("GET", "/v1/deployments/{name:path}"): {"inference", "read"},
    ("HEAD", "/v1/deployments"): {"inference", "read"},
    ("HEAD", "/v1/deployments/{name:path}"): {"inference", "read"},
    ("GET", "/v1/responses/{id}"): {"inference"},
    ("DELETE", "/v1/responses/{id}"): {"inference"},
    ("GET", "/v1/responses/{id}/input_items"): {"inference"},
    ("POST", "/v1/responses/{id}/cancel"): {"inference"},
    ("POST", "/v1/messages/count_tokens"): {"inference"},
    ("GET", "/v1/{rest:path}"): {"inference"},
    ("POST", "/v1/{rest:path}"): {"inference"},
    ("DELETE", "/v1/{rest:path}"): {"inference"},
    ("POST", "/v1/feedback"): {"feedback"},
    ("POST", "/v1/feedback/batch"): {"feedback"},
    ("POST", "/v1/feedback/tokens"): {"feedback"},
    ("GET", "/v1/feedback"): {"read"},
    ("GET", "/v1/feedback/{feedback_id:path}"): {"read"},
    ("DELETE", "/v1/feedback/{feedback_id:path}"): {"feedback"},
    ("GET", "/f/thumbs.js"): OPEN,
    ("GET", "/f/{token}"): OPEN,
    ("POST", "/f/{token}"): OPEN,
    ("OPTIONS", "/f/{token}"): OPEN,
    ("GET", "/v1/trajectories"): {"read"},
    ("GET", "/v1/trajectories/{wanted}"): {"read"},
    ("GET", "/training/status"): {"read"},
    ("POST", "/training/trigger"): {"admin"},
    # What there is not, or not yet, is closed to all but who may do everything.
    ("GET", "/"): {"admin"},
    ("POST", "/metrics"): {"admin"},
    ("PUT", "/v1/feedback/{feedback_id:path}"): {"admin"},
    ("DELETE", "/v1/feedback"): {"admin"},
    ("DELETE", "/f/{token}"): {"admin"},
    ("DELETE", "/v1/trajectories/{wanted}"): {"admin"},
    ("GET", "/training/trigger"): {"admin"},
    ("POST", "/training/status"): {"admin"},
    ("GET", "/somewhere"): {"admin"},
    ("GET", "/v1feedback"): {"admin"},
}


def make(redis: Redis, *scopes: ScopeName, **fields: Any) -> dict[str, str]:
    """A new key, as the header to send."""
    _, key = KeyStore(redis).create(name="app", scopes=scopes, now=time.time(), **fields)
    return {"authorization": f"Bearer {key}"}


def guarded(start: Callable[..., Running], redis: Any = None, **sections: Any) -> Running:
    return start(redis=redis, gateway={"require_keys": True}, **sections)


def path_of(template: str) -> str:
    named = {"{name:path}": "policy", "{rest:path}": "embeddings", "{wanted}": "traj_x"}
    for part, value in {
        **named,
        "{feedback_id:path}": "x",
        "{token}": "t",
        "{id}": "resp_x",
    }.items():
        template = template.replace(part, value)
    return template


def test_every_route_has_a_scope(tmp_path: Path) -> None:
    app = create_app(settings_for(tmp_path, "http://127.0.0.1:1"), redis=fakeredis.FakeRedis())
    app.state.services.spool.close()
    routes: list[Any] = app.routes
    assert {route.path for route in routes} <= {template for _, template in ROUTES}
    for route in routes:
        for method in route.methods or ():
            if method != "HEAD" or "GET" not in route.methods:
                assert (method, route.path) in ROUTES


def test_each_key_opens_exactly_the_routes_of_its_scopes(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    holders = {scope: make(redis, scope) for scope in SCOPES}
    running = guarded(start, redis)
    for (method, template), allowed in ROUTES.items():
        path = path_of(template)
        for scope, header in holders.items():
            status = running.client.request(method, path, headers=header, json={}).status_code
            is_open = allowed is OPEN or scope in allowed
            assert (status not in (401, 403)) == is_open, (method, path, scope, status)
        for header in ({}, {"api-key": "rk_unknown"}):
            status = running.client.request(method, path, headers=header, json={}).status_code
            assert (status != 401) == (allowed is OPEN), (method, path, status)
    assert key_leaks(redis) == []


def test_a_prefix_or_another_spelling_opens_nothing(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    header = make(redis, "inference")
    running = guarded(start, redis)
    for path in (
        "/t/s1/v1/trajectories/traj_x",
        "/a/b/t/s1/trajectories/traj_x",
        "/v1/v1/feedback/x",
        "/v1/%66eedback/x",
        "/v1/trajectories/",
        "/training/status/",
        "/t/s1/training/status",
    ):
        assert running.client.get(path, headers=header).status_code == 403, path
    assert running.client.head("/t/s1/v1").status_code == 200


def test_a_key_for_some_models_opens_no_route_that_could_ask_for_others(
    start: Callable[..., Running],
) -> None:
    redis = fakeredis.FakeRedis()
    header = make(redis, "inference", models=frozenset({"policy"}))
    running = guarded(start, redis)
    for model, status in (("policy", 200), ("base", 403)):
        assert running.chat(model=model, headers=header).status_code == status
    assert running.client.get("/v1/models", headers=header).status_code == 200
    for path in ("/v1/images/generations", "/v1/rerank"):
        refused = running.client.post(path, headers=header, json={"model": "policy"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_model")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/responses/compact", "inference"),
        ("POST", "/openai/deployments/d/chat/completions", "inference"),
        ("GET", "/openai/models", "inference"),
        ("POST", "/training/anything/new", "admin"),
        ("GET", "/dashboard", "admin"),
        ("GET", "//v1/feedback/x", "admin"),
    ],
)
def test_routes_to_come_have_a_scope_too(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


def test_refusals_have_the_shape_that_sdks_read(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    running = guarded(start, redis)
    missing = running.client.post("/v1/feedback", json={})
    assert missing.status_code == 401
    assert missing.json()["error"]["type"] == "authentication_error"
    wait_for(lambda: running.services.access.is_connected)
    header = make(redis, "read", requests_per_minute=1)
    wait_for(lambda: running.client.post("/v1/feedback", headers=header).status_code == 403)
    refused = running.client.post("/v1/feedback", headers=header, json={})
    assert refused.json()["error"] == {
        "message": "this API key has not the scope that is needed here: feedback",
        "type": "permission_error",
        "param": None,
        "code": "wrong_scope",
    }
    assert refused.headers["x-should-retry"] == "false"
    assert running.client.get("/training/status", headers=header).status_code == 200
    limited = running.client.get("/training/status", headers=header)
    assert limited.status_code == 429
    assert 0 < int(limited.headers["retry-after"]) <= 60
    assert int(limited.headers["retry-after-ms"]) <= 60_000
    assert limited.json()["error"]["code"] == "rate_limit"


def test_a_call_is_recorded_and_counted_as_its_key_says(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    plain, quiet = make(redis, "inference", tenant="acme"), make(redis, "inference", tenant="acme")
    silent = make(redis, "inference", is_recorded=False)
    untrained = make(redis, "inference", is_trainable=False)
    running = guarded(start, redis)
    for header in (plain, untrained, silent):
        assert running.chat(headers=header).status_code == 200
    assert running.chat(headers=quiet, stream=True).status_code == 200
    first, second, third = running.records(Transition)
    assert [record.tenant for record in (first, second, third)] == ["acme", "default", "acme"]
    assert [record.is_trainable for record in (first, second, third)] == [True, False, True]
    ids = [record.id for record in KeyStore(redis).records()[0]]
    assert {first.key, second.key, third.key} < set(ids)
    assert first.trajectory_id != third.trajectory_id

    def is_counted() -> bool:
        used = KeyStore(redis).usage(ids).values()
        return all(one.requests == 1 and one.tokens > 0 for one in used)

    wait_for(is_counted)


# -- tenants -----------------------------------------------------------------------


def transition(tenant: str, session: str, number: int) -> Transition:
    return Transition(
        id=f"tr_{tenant}_{number}",
        tenant=tenant,
        trajectory_id=trajectory_id(tenant, session=session, task=None),
        session_id=session,
        gateway="gw",
        started_at=time.time(),
        latency_seconds=0.1,
        request={"messages": []},
        response_id=f"chatcmpl-{tenant}-{number}",
        model="base",
        choices=(Choice(message={"role": "assistant", "content": "an answer"}),),
    )


def test_another_tenants_records_are_as_if_they_were_not(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    ours = make(redis, "feedback", "read", tenant="acme")
    theirs = make(redis, "feedback", "read", tenant="other")
    running = guarded(start, redis)
    store, client = running.services.store, running.client
    record = transition("acme", "s1", 1)
    store.add_transition(record)
    vote = {"response_id": record.response_id, "thumb": "up", "id": "vote-1"}
    answer = client.post("/v1/feedback?strict=1", headers=ours, json=vote)
    assert (answer.status_code, answer.json()["trajectory_id"]) == (202, record.trajectory_id)
    (posted,) = running.records(Feedback)
    assert posted.tenant == "acme"
    store.add_feedback(posted)

    for path in (
        f"/v1/trajectories/{record.trajectory_id}",
        "/v1/trajectories?session_id=s1",
        "/t/s1/v1/trajectories",
        "/v1/feedback/vote-1",
    ):
        assert client.get(path, headers=ours).status_code == 200, path
        assert client.get(path, headers=theirs).status_code == 404, path
    targets = (
        {"response_id": record.response_id},
        {"trajectory_id": record.trajectory_id},
        {"session_id": "s1"},
    )
    for target in targets:
        body = {**target, "thumb": "down"}
        assert client.post("/v1/feedback?strict=1", headers=theirs, json=body).status_code == 404
        # Without `strict` it waits, as for anything that nobody has recorded.
        waiting = client.post("/v1/feedback", headers=theirs, json=body)
        nothing = client.post(
            "/v1/feedback", headers=theirs, json={"response_id": "none", "thumb": "down"}
        )
        assert waiting.status_code == nothing.status_code == 202
        assert waiting.json()["status"] == nothing.json()["status"] == "pending"
    for vote_record in running.records(Feedback)[1:]:
        assert vote_record.tenant == "other"
        store.add_feedback(vote_record)
    (kept,) = redis.hvals(keys.feedback_of("acme", record.trajectory_id))
    assert Feedback.from_json(kept).reward == 1.0


def test_two_tenants_may_use_the_same_names(start: Callable[..., Running]) -> None:
    redis = fakeredis.FakeRedis()
    headers = {name: make(redis, "feedback", "read", tenant=name) for name in ("a", "b")}
    running = guarded(start, redis)
    for name, thumb in (("a", "up"), ("b", "down")):
        running.services.store.add_transition(transition(name, "s1", 1))
        body = {"session_id": "s1", "thumb": thumb, "id": "vote-1"}
        answer = running.client.post("/v1/feedback?strict=1", headers=headers[name], json=body)
        assert answer.status_code == 202
    for vote in running.records(Feedback):
        running.services.store.add_feedback(vote)
    rewards = {
        name: running.client.get("/v1/feedback/vote-1", headers=headers[name]).json()["reward"]
        for name in ("a", "b")
    }
    assert rewards == {"a": 1.0, "b": -1.0}


# -- the store of keys goes away ---------------------------------------------------


def status(running: Running, header: dict[str, str]) -> int:
    return running.client.get("/v1/models/policy", headers=header).status_code


def test_a_revoked_key_is_refused_by_every_gateway(
    start: Callable[..., Running], redis_server: RedisServer
) -> None:
    redis = connect(RedisSettings(url=redis_server.url, timeout_seconds=5))
    gateways = [guarded(start, redis) for _ in range(2)]
    record, key = KeyStore(redis).create(name="app", scopes=["read"], now=time.time())
    header = {"x-api-key": key}
    for running in gateways:
        wait_for(lambda running=running: status(running, header) == 200, 5)
    KeyStore(redis).revoke(record.id, time.time())
    for running in gateways:
        wait_for(lambda running=running: status(running, header) == 401, 5)
    redis.close()


def test_without_redis_known_keys_are_served_and_unknown_ones_get_a_503(
    start: Callable[..., Running], redis_server: RedisServer
) -> None:
    redis = connect(RedisSettings(url=redis_server.url))
    known, unknown = make(redis, "read"), {"api-key": "rk_unknown"}
    running = guarded(start, redis)
    assert status(running, known) == 200
    assert status(running, unknown) == 401
    redis_server.kill()
    wait_for(lambda: status(running, unknown) == 503, 10)
    for _ in range(20):
        assert status(running, known) == 200
        refused = running.client.get("/v1/models", headers=unknown)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "keys_unavailable")
        assert refused.headers["retry-after"]
    redis_server.start()
    wait_for(lambda: status(running, unknown) == 401, 10)
    assert status(running, known) == 200
    redis.close()


# -- canaries ----------------------------------------------------------------------


def test_no_key_is_found_anywhere_afterwards(
    start: Callable[..., Running], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    redis = fakeredis.FakeRedis()
    made = make(redis, "inference", "feedback", "read")["authorization"].removeprefix("Bearer ")
    fixed, wrong = "canary-of-the-settings", "rk_canary-that-is-wrong"
    running = start(redis=redis, gateway={"require_keys": True, "api_key": fixed})
    client, shown = running.client, list[str]()

    def call(method: str, path: str, body: Any = None) -> None:
        for key in (made, fixed, wrong):
            for header in ({"authorization": f"Bearer {key}"}, {"api-key": key, "x-api-key": key}):
                try:
                    answer = client.request(method, path, headers=header, json=body)
                except httpx2.HTTPError as error:  # it broke off
                    shown.append(repr(error))
                else:
                    shown.append(f"{answer.headers} {answer.text}")

    chat = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
    call("POST", "/v1/chat/completions", chat)
    call("POST", "/v1/chat/completions", {**chat, "stream": True})
    call("POST", "/v1/chat/completions", {"model": 7})
    call("POST", "/v1/embeddings", {"input": "x"})
    call("POST", "/v1/feedback", {"session_id": "s1", "thumb": "up"})
    call("POST", "/v1/feedback", {"thumb": "sideways"})
    call("GET", "/v1/trajectories/none")
    call("GET", "/nowhere")
    running.fake.fault = "500"
    call("POST", "/v1/chat/completions", chat)

    upstream = repr([(seen.headers, seen.body) for seen in running.fake.requests])
    spool = b"".join(path.read_bytes() for path in list_segments(running.services.spool.directory))
    stored = b"".join(redis.dump(name) or b"" for name in redis.scan_iter())
    places = {
        "answers": "\n".join(shown),
        "upstream": upstream,
        "spool": spool.decode("latin-1"),
        "redis": stored.decode("latin-1"),
        "metrics": client.get("/metrics").text,
        "log": caplog.text + repr([vars(record) for record in caplog.records]),
    }
    assert len(running.fake.requests) > 4
    assert len(spool) > 100
    for place, text in places.items():
        for key in (made, fixed, wrong, "canary"):
            assert key not in text, place
