"""Siblings that the house asks for: who may, what is recorded, and what they leave alone."""

from collections.abc import Callable

import pytest

from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, free_port
from trajectories.access import KeyStore, ScopeName
from trajectories.rollouts import Rollout

pytestmark = pytest.mark.parametrize("shell", ["protocol", "twin"])
HEADER = "x-ratchet-rollout"


def test_a_sibling_is_stamped_and_has_a_trajectory_of_its_own(running: Running) -> None:
    headers = {HEADER: "default/tr_parent/2", "x-session-id": "theirs", "x-task-id": "sums"}
    answer = running.chat(headers=headers)
    assert answer.status_code == 200
    (record,) = running.records()
    assert record.rollout == "tr_parent"
    assert record.trajectory_id == Rollout("default", "tr_parent", 2).trajectory_id
    assert answer.headers["x-ratchet-trajectory-id"] == record.trajectory_id
    assert (record.session_id, record.alternates, record.task) == (None, (), "sums")
    assert record.session_source == "rollout"  # never looked for by content
    assert record.policy_version == 0
    assert record.choices[0].is_aligned
    assert HEADER not in running.fake.requests[-1].headers


def test_it_binds_no_conversation_to_a_version(running: Running) -> None:
    running.chat(headers={HEADER: "default/tr_parent/0"})
    policy = running.services.policies.default
    assert policy.stickiness.open_by_version(0.0) == {}
    running.chat(headers={"x-session-id": "theirs"})
    assert sum(policy.stickiness.open_by_version(0.0).values()) == 1


def test_nobody_is_asked_about_it(start: Callable[..., Running]) -> None:
    running = start(rewards={"ask_share": 1.0, "ask_seed": "secret"})
    answer = running.chat(headers={HEADER: "default/tr_parent/0"})
    assert "x-ratchet-ask" not in answer.headers
    assert running.records()[0].ask is None
    assert running.chat().headers["x-ratchet-ask"] == "1"


def test_no_fallback_is_asked_for_it(start: Callable[..., Running]) -> None:
    with FakeVLLM(base_model="gpt").serve() as paid:
        running = start(
            upstream={"url": f"http://127.0.0.1:{free_port()}"},
            upstreams={"paid": {"kind": "vllm", "url": paid.url}},
            routes={
                "policy": {"upstream": "policy", "fallbacks": ["big"]},
                "big": {"upstream": "paid", "model": "gpt"},
            },
        )
        assert running.chat().status_code == 200
        asked = len(paid.requests)
        assert asked == 1
        assert running.chat(headers={HEADER: "default/tr_parent/0"}).status_code == 503
        other = running.chat(model="big", headers={HEADER: "default/tr_parent/1"})
        assert other.status_code == 400
        assert len(paid.requests) == asked


@pytest.mark.parametrize("written", ["tr_parent", "default/tr_parent/99", "default/tr_parent/x"])
def test_what_is_no_sibling_is_refused(running: Running, written: str) -> None:
    answer = running.chat(headers={HEADER: written})
    assert answer.status_code == 400
    assert "TENANT/TRANSITION/NUMBER" in answer.json()["error"]["message"]
    assert running.records() == []


@pytest.mark.parametrize(
    ("scopes", "tenant", "status"),
    [
        (["inference"], "default", 403),
        (["inference", "rollout"], "acme", 403),
        (["inference", "rollout"], "default", 200),
    ],
)
def test_it_takes_a_key_of_that_scope_and_tenant(
    start: Callable[..., Running], scopes: list[ScopeName], tenant: str, status: int
) -> None:
    running = start(gateway={"require_keys": True})
    store = KeyStore(running.redis)
    _, key = store.create(name="k", scopes=scopes, tenant=tenant, now=0.0)
    running.client.headers["authorization"] = f"Bearer {key}"

    def answer() -> int:
        return running.chat(headers={HEADER: "default/tr_parent/0"}).status_code

    found = answer()
    while found == 401:  # until this process has seen the new key
        found = answer()
    assert found == status
    assert bool(running.records()) == (status == 200)
