"""Another tenant's ids are unknown: never a 403, and nothing that tells they exist."""

import time
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from tests.gateway.conftest import Running
from tests.gateway.test_feedback import deliver
from trajectories.access import KeyStore, ScopeName
from trajectories.ids import trajectory_id

Header = dict[str, str]
SCOPES: tuple[ScopeName, ...] = ("inference", "feedback", "read")


@pytest.fixture
def shared(start: Callable[..., Running]) -> tuple[Running, Header, Header]:
    redis = fakeredis.FakeRedis()
    headers = []
    for tenant in ("alpha", "beta"):
        store = KeyStore(redis)
        _, key = store.create(name="app", scopes=SCOPES, now=time.time(), tenant=tenant)
        headers.append({"authorization": f"Bearer {key}"})
    running = start(redis=redis, gateway={"require_keys": True})
    return running, headers[0], headers[1]


def recorded(running: Running, header: Header) -> dict[str, dict[str, Any]]:
    """Every way to name what a tenant just recorded."""
    answer = running.chat(session_id="s1", task_id="t1", headers=header)
    content = answer.json()
    trajectory = trajectory_id("alpha", session="s1", task=None)
    return {
        "response": {"response_id": content["id"]},
        "request": {"request_id": answer.headers["x-request-id"]},
        "span": {"span_id": answer.headers["x-request-id"]},
        "text": {"output_text": content["choices"][0]["message"]["content"]},
        "step": {"session_id": "s1", "step": 0},
        "session": {"session_id": "s1"},
        "task": {"task_id": "t1"},
        "trajectory": {"trajectory_id": trajectory},
    }


def test_no_target_of_another_tenant_can_be_found(shared: tuple[Running, Header, Header]) -> None:
    running, alpha, beta = shared
    targets = recorded(running, alpha)
    deliver(running)
    for name, target in targets.items():
        body = {**target, "value": -1, "name": name}
        own = running.client.post("/v1/feedback?strict=1", json=body, headers=alpha)
        assert own.status_code == 202, (name, own.text)
        other = running.client.post("/v1/feedback?strict=1", json=body, headers=beta)
        assert (other.status_code, other.json()["error"]["code"]) == (404, "unknown_target"), name
        pending = running.client.post("/v1/feedback", json=body, headers=beta).json()
        assert pending["status"] == "pending", name
        batch = running.client.post("/v1/feedback/batch", json=[body], headers=beta).json()
        assert batch["results"][0]["state"] == "pending", name
    deliver(running)
    listed = running.client.get("/v1/feedback?status=attached", headers=beta).json()["data"]
    assert listed == []
    trajectory = running.client.get("/v1/trajectories?session_id=s1", headers=alpha).json()
    mine = running.client.get("/v1/feedback?session_id=s1", headers=alpha).json()["data"]
    assert len(mine) == len(targets)
    assert {item["trajectory_id"] for item in mine} == {trajectory["id"]}


def test_a_link_reaches_no_further_than_the_key_it_was_made_with(
    shared: tuple[Running, Header, Header],
) -> None:
    running, alpha, beta = shared
    target = recorded(running, alpha)["response"]
    deliver(running)
    made = running.client.post("/v1/feedback/tokens", json=target, headers=beta)
    assert made.status_code == 201, "nothing says whether the id exists"
    assert running.client.post(f"/f/{made.json()['token']}", data={"v": "1"}).status_code == 200
    deliver(running)
    assert running.client.get("/v1/feedback?session_id=s1", headers=alpha).json()["data"] == []
    (own,) = running.client.get("/v1/feedback", headers=beta).json()["data"]
    assert own["status"] == "pending"


def test_a_vote_of_another_tenant_is_unknown(shared: tuple[Running, Header, Header]) -> None:
    running, alpha, beta = shared
    body = {"session_id": "s1", "value": 1, "comment": "mine", "id": "fb-1"}
    assert running.client.post("/v1/feedback", json=body, headers=alpha).status_code == 202
    for is_delivered in (False, True):
        if is_delivered:
            deliver(running)
        answers = [
            running.client.request(method, f"/v1/feedback/{name}", headers=beta)
            for name in ("fb-1", "fb-none")
            for method in ("GET", "DELETE")
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.json()["error"]["code"] for answer in answers} == {"unknown_feedback"}
    # The same id is another tenant's to use, with whatever body.
    again = running.client.post("/v1/feedback", json={**body, "value": -1}, headers=beta)
    assert again.status_code == 202
    deliver(running)
    for header, value in ((alpha, 1), (beta, -1)):
        assert running.client.get("/v1/feedback/fb-1", headers=header).json()["value"] == value
    assert running.client.delete("/v1/feedback/fb-1", headers=beta).status_code == 200
    deliver(running)
    kept = running.client.get("/v1/feedback/fb-1", headers=alpha).json()
    assert (kept["status"], kept["comment"]) == ("pending", "mine")
