"""Several policies: whose call it is decides which of them answers, learns and is counted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fakeredis
import pytest

from gateway.policies import Policies, serve_policies
from tests.gateway.conftest import Running, wait_for
from trajectories.access import KeyStore
from trajectories.registry import Registry, Snapshot
from trajectories.resources import PolicyVersion, VersionState
from trajectories.settings import Settings

POLICIES: dict[str, Any] = {
    "planner": {
        "agents": ["planner", "critic", "Chief Planner"],
        "trainer": {"min_trajectories": 3},
    },
    "named": {"aliases": ["our-7b"]},
    "acme": {"tenant": "acme"},
    "acme-sales": {"tenant": "acme", "agents": ["sales"]},
}


def served(**versions: int) -> Policies:
    """All of them; `versions` says which one is current where it is not the base."""
    settings = Settings(policies=POLICIES)
    snapshots = [Registry(fakeredis.FakeRedis(), n, "base").empty for n in settings.policy_names]
    found = serve_policies(settings, snapshots, ("policy", "*"))
    for name, number in versions.items():
        policy = found[name.replace("_", "-")]
        found.put(policy, promoted(policy.snapshot, number))
    return found


def promoted(snapshot: Snapshot, number: int) -> Snapshot:
    entry = PolicyVersion(
        policy=snapshot.policy,
        version=number,
        model=f"{snapshot.policy}-v{number}",
        state=VersionState.CURRENT,
    )
    versions = {**snapshot.versions, number: entry}
    return replace(snapshot, current=number, revision=snapshot.revision + 1, versions=versions)


@pytest.mark.parametrize(
    ("name", "tenant", "agent", "expected"),
    [
        ("policy", "default", None, "policy"),
        ("policy", "default", "somebody", "policy"),
        ("policy", "default", "planner", "planner"),
        ("policy", "default", "critic", "planner"),
        ("policy", "acme", None, "acme"),
        ("policy", "acme", "planner", "acme"),
        ("policy", "acme", "sales", "acme-sales"),
        ("policy", "nobody", "planner", None),
        ("our-7b", "default", "planner", "named"),
        ("our-7b", "acme", "sales", None),
        ("planner-v4", "default", None, "planner"),
        ("planner-v4", "acme", None, None),
        ("acme-v2", "acme", "sales", "acme"),
        ("acme-v2", "default", None, None),
        ("base", "default", "planner", "planner"),
        ("anything", "acme", "sales", "acme-sales"),
    ],
)
def test_name_tenant_and_agent_say_which_policy_answers(
    name: str, tenant: str, agent: str | None, expected: str | None
) -> None:
    policy = served(planner=4, acme=2).answering(name, tenant, agent)
    assert (policy.name if policy else None) == expected


def test_each_policy_keeps_a_trajectory_on_its_own_version() -> None:
    policies = served(planner=4)
    planner, rest = policies["planner"], policies.default
    assert planner.route("policy", "t", True, 0.0).version == 4
    assert rest.route("policy", "t", True, 0.0).version == 0
    draining = planner.snapshot.versions[4].model_copy(update={"state": VersionState.DRAINING})
    newer = promoted(planner.snapshot, 5)
    policies.put(planner, replace(newer, versions={**newer.versions, 4: draining}))
    assert planner.route("policy", "t", True, 1.0).version == 4
    assert planner.route("policy", "u", True, 1.0).version == 5
    assert rest.stickiness.open_by_version(1.0) == {0: 1}
    assert planner.stickiness.open_by_version(1.0) == {4: 1, 5: 1}


def promote(running: Running, policy: str, number: int) -> Registry:
    registry = Registry(running.redis, policy, "base")
    entry = PolicyVersion(
        policy=policy, version=number, model=f"{policy}-v{number}", state=VersionState.CANDIDATE
    )
    running.fake.adapters[entry.model] = "/x"
    registry.add(entry)
    registry.promote(number)
    wait_for(lambda: running.services.policies[policy].snapshot.current == number)
    return registry


def as_agent(agent: str) -> dict[str, str]:
    return {"x-agent-id": agent}


def test_an_agents_calls_are_answered_and_stamped_by_its_policy(
    start: Callable[..., Running],
) -> None:
    running = start(policies={"planner": POLICIES["planner"]})
    registry = promote(running, "planner", 1)
    stamps = [
        running.chat(session_id="s", headers=as_agent(agent)).headers["x-ratchet-policy"]
        for agent in ("planner", "writer", "Chief Planner")
    ]
    assert stamps == ["planner@1", "policy@0", "planner@1"]
    assert [(r.policy, r.policy_version, r.model) for r in running.records()] == [
        ("planner", 1, "planner-v1"),
        ("policy", 0, "base"),
        ("planner", 1, "planner-v1"),
    ]
    beat = wait_for(lambda: [b for b in registry.heartbeats() if b.open_trajectories == {1: 1}])[0]
    assert (beat.policy, beat.in_flight) == ("planner", {})
    assert running.registry.heartbeats()[0].open_trajectories == {0: 1}
    text = running.client.get("/metrics").text
    assert 'ratchet_registry_revision{policy="planner"} 2.0' in text


def test_a_lost_adapter_falls_back_in_its_own_policys_name(start: Callable[..., Running]) -> None:
    running = start(policies={"planner": POLICIES["planner"]})
    promote(running, "planner", 1)
    running.fake.forget_adapters()
    answer = running.chat(headers=as_agent("planner"))
    assert answer.headers["x-ratchet-policy"] == "planner@0"
    assert not running.services.policies["planner"].in_flight.by_version()


@pytest.fixture
def tenants(start: Callable[..., Running]) -> tuple[Running, dict[str, dict[str, str]]]:
    """A gateway with all policies, and the headers of three tenants."""
    redis, headers = fakeredis.FakeRedis(), {}
    for tenant in ("default", "acme", "other"):
        scopes = ["inference", "read", "admin"]
        _, key = KeyStore(redis).create(name="k", scopes=scopes, now=0, tenant=tenant)
        headers[tenant] = {"authorization": f"Bearer {key}"}
    running = start(redis, gateway={"require_keys": True}, policies=POLICIES)
    return running, headers


def test_a_tenant_sees_its_own_policies_alone(
    tenants: tuple[Running, dict[str, dict[str, str]]],
) -> None:
    running, headers = tenants
    promote(running, "acme", 2)

    def models(tenant: str) -> dict[str, str]:
        found = running.client.get("/v1/models", headers=headers[tenant]).json()["data"]
        return {entry["id"]: entry.get("policy", "") for entry in found}

    assert models("default") == {"policy": "policy", "our-7b": "named", "base": ""}
    assert models("acme") == {"policy": "acme", "base": ""}
    answer = running.chat(model="our-7b", headers=headers["acme"])
    assert answer.headers["x-ratchet-policy"] == "policy@0"
    assert running.chat(headers=headers["acme"]).headers["x-ratchet-policy"] == "acme@2"


def test_status_and_trigger_are_of_one_policy(
    tenants: tuple[Running, dict[str, dict[str, str]]],
) -> None:
    running, headers = tenants
    promote(running, "acme", 2)
    running.redis.set("trainer:acme-sales:status", b'{"state": "training"}')
    running.redis.set("trainer:planner:status", b'{"state": "collecting"}')

    def status(tenant: str, query: str = "") -> dict[str, Any]:
        found: dict[str, Any] = running.client.get(
            f"/training/status{query}", headers=headers[tenant]
        ).json()
        return found

    whole = status("acme")
    assert (whole["policy"]["name"], whole["policy"]["current"]) == ("acme", 2)
    assert [policy["name"] for policy in whole["policies"]] == ["acme", "acme-sales"]
    assert status("acme", "?policy=acme-sales")["state"] == "training"
    assert status("default", "?policy=planner")["needed"] == 3
    assert "policy" not in status("other")

    def trigger(tenant: str, **body: Any) -> tuple[int, dict[str, Any]]:
        answer = running.client.post("/training/trigger", json=body, headers=headers[tenant])
        return answer.status_code, answer.json()

    code, refused = trigger("default", policy="acme")
    assert (code, refused["error"]["code"]) == (404, "unknown_policy")
    assert "policy, planner, named" in refused["error"]["message"]
    assert trigger("other")[0] == 403
    assert trigger("default", policy="planner")[0] == 422
    code, queued = trigger("default", policy="planner", force=True)
    assert (code, queued["status"]) == (202, "queued")
    assert running.redis.get("trainer:planner:trigger") is not None
    assert running.redis.get("trainer:policy:trigger") is None
