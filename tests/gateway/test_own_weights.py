"""Full weights: what is stamped is what answered, and where nobody can say, nothing is."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.policies import Served, serve_policies
from gateway.routing import Route, at_replica
from gateway.upstreams import weights as own_weights
from gateway.upstreams.balance import Replica, choose
from gateway.upstreams.breaker import Breaker
from gateway.upstreams.weights import STALE_SECONDS, OwnWeights
from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import Running, wait_for
from trajectories.registry import Snapshot, Weights
from trajectories.resources import Kind, PolicyVersion, VersionState
from trajectories.settings import BreakerSettings, Settings

FULL = {"trainer": {"weights": "full"}}


def version(number: int) -> PolicyVersion:
    return PolicyVersion(
        policy="policy",
        version=number,
        model=f"policy-v{number}-abcdef00",
        state=VersionState.CANDIDATE,
        kind=Kind.FULL,
    )


def note(running: Running, number: int | None, **more: Any) -> None:
    """What the trainer does before and after an exchange, and waits for."""
    said = Weights(url=running.fake.url, version=number, **more)
    revision = running.registry.note_weights(said)
    wait_for(lambda: all(b.revision >= revision for b in running.registry.heartbeats()))


def exchange(running: Running, number: int) -> None:
    note(running, None)
    running.fake.weights_name = version(number).model
    note(running, number)
    wait_for(lambda: stamp_of(running) == number)


def stamp_of(running: Running) -> int | None:
    stamp = running.services.servers["policy"].replicas[0].stamp
    assert stamp is not None
    return stamp.version


@pytest.fixture
def running(start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setattr(own_weights, "LOOK_SECONDS", 0.02)
    running = start(**FULL)
    note(running, 0)
    wait_for(lambda: stamp_of(running) == 0)
    for number in (1, 2):
        running.registry.add(version(number))
    return running


def test_a_call_is_stamped_with_what_the_engine_was_given(running: Running) -> None:
    assert running.chat(session_id="s").headers["x-ratchet-policy"] == "policy@0"
    exchange(running, 1)
    answer = running.chat(session_id="s")
    assert answer.headers["x-ratchet-policy"] == "policy@1", "no trajectory stays on what is gone"
    assert running.fake.requests[-1].body["model"] == "base", "the engine knows one name"
    running.registry.promote(1)
    assert running.chat(stream=True).headers["x-ratchet-policy"] == "policy@1"
    assert [r.policy_version for r in running.records()] == [0, 1, 1]


def test_a_call_that_spans_an_exchange_is_stamped_by_nobody(running: Running) -> None:
    running.fake.hold()
    body = {"model": "policy", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        parts = answer.iter_raw()
        next(parts)
        assert answer.headers["x-ratchet-policy"] == "policy@0"
        exchange(running, 1)
        running.fake.let_go()
        list(parts)
    (record,) = running.records()
    assert (record.policy, record.policy_version) == ("policy", None)
    assert "ratchet_mixed_total 1.0" in running.client.get("/metrics").text


def test_nothing_is_stamped_while_weights_change(running: Running) -> None:
    note(running, None)
    assert running.chat().headers["x-ratchet-policy"] == "policy@mixed"
    running.fake.weights_name = "changing"
    assert running.chat().headers["x-ratchet-policy"] == "policy@mixed"
    assert [r.policy_version for r in running.records()] == [None, None]


def test_an_engine_that_restarted_is_not_believed_to_be_what_it_was(running: Running) -> None:
    exchange(running, 1)
    running.fake.weights_name = "default"  # its first weights, and the trainer has not seen it yet
    wait_for(lambda: stamp_of(running) is None)
    assert running.chat().headers["x-ratchet-policy"] == "policy@mixed"


def test_what_the_engine_does_not_have_it_is_asked_for_once(running: Running) -> None:
    exchange(running, 1)
    running.registry.promote(1)
    running.fake.base_model = "another"  # it was restarted under another name
    answer = running.chat()
    assert answer.status_code == 404
    asked = [seen for seen in running.fake.requests if seen.path == "/v1/chat/completions"]
    assert len(asked) == 1, "no adapter was lost: the base is not what would answer otherwise"


def test_an_engine_that_is_out_gets_no_call(running: Running) -> None:
    note(running, None, is_out=True, reason="it took neither")
    answer = running.chat()
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    exchange(running, 1)
    assert running.chat().status_code == 200


def test_another_tenant_is_not_answered_by_what_this_one_taught(
    start: Callable[..., Running],
) -> None:
    running = start(**FULL, policy_tenant="acme")
    answer = running.chat()
    assert answer.status_code == 404
    assert "another tenant's policy" in answer.json()["error"]["message"]
    assert running.fake.requests == []


def test_with_several_engines_the_one_that_changes_is_left_alone(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_weights, "LOOK_SECONDS", 0.02)
    with ExitStack() as stack:
        second = stack.enter_context(FakeVLLM().serve())
        first = stack.enter_context(FakeVLLM().serve())
        running = start(**FULL, upstream={"replicas": [first.url, second.url]})
        for fake, number in ((first, None), (second, 0)):
            revision = running.registry.note_weights(Weights(url=fake.url, version=number))
        wait_for(lambda: all(b.revision >= revision for b in running.registry.heartbeats()))
        replicas = running.services.servers["policy"].replicas
        wait_for(lambda: [r.stamp.version for r in replicas if r.stamp] == [None, 0])
        answers = [running.chat(session_id=f"s{n}") for n in range(8)]
        assert {answer.headers["x-ratchet-policy"] for answer in answers} == {"policy@0"}
        assert not [seen for seen in first.requests if seen.path == "/v1/chat/completions"]


def replica(url: str) -> Replica:
    return Replica(url, Breaker(BreakerSettings()))


def test_one_that_changes_is_better_than_none() -> None:
    first, second = replica("http://a"), replica("http://b")
    first.is_changing = True
    assert choose([first, second], 0, 0.0) is second
    second.breaker.is_held = True
    assert choose([first, second], 0, 0.0) is first
    first.breaker.is_held = True
    assert choose([first, second], 0, 0.0) is None


def test_a_stamp_is_another_object_whenever_anything_changed_in_between() -> None:
    entries = {n: version(n) for n in (1, 2)}
    weights = {"http://a": Weights(url="http://a", version=1, change=1)}
    snapshot = Snapshot("policy", 1, 1, entries, weights)
    policies = serve_policies(Settings(), [snapshot], ())
    served: Served = policies.default
    one = replica("http://a/")
    own = OwnWeights([one], served, lambda _: None)  # type: ignore[arg-type,return-value]
    own._said["http://a/"] = entries[1].model
    own.settle(0.0, is_fresh=True)
    before = one.stamp
    assert before is not None
    assert before.version == 1
    own.settle(1.0)
    assert one.stamp is before
    weights = {"http://a": Weights(url="http://a", version=1, change=3)}  # away, and back again
    policies.put(served, Snapshot("policy", 2, 1, entries, weights))
    own.settle(1.0, is_fresh=True)
    assert one.stamp is not before
    own.settle(2.0 + STALE_SECONDS)
    assert one.stamp is not None
    assert one.stamp.version is None, "who has not heard of Redis for long does not know"


def test_who_knows_other_engines_than_the_trainer_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = {"http://engine": Weights(url="http://engine", version=0)}
    snapshot = Snapshot("policy", 1, 0, {0: version(0)}, weights)
    policies = serve_policies(Settings(), [snapshot], ())
    for url, told in (("http://engine/", 0), ("http://10.0.0.7", 1)):
        own = OwnWeights([replica(url)], policies.default, lambda _: None)  # type: ignore[arg-type,return-value]
        own.settle(0.0, is_fresh=True)
        own.settle(1.0, is_fresh=True)
        assert len(caplog.records) == told
    assert "http://engine, ours are http://10.0.0.7" in caplog.text


async def test_an_engine_that_hangs_holds_up_the_look_at_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_weights, "LOOK_SECONDS", 0.0)
    asked, enough = 0, asyncio.Event()

    async def ask(url: str) -> str:
        nonlocal asked
        if url == "http://hangs":
            await asyncio.Event().wait()
        asked += 1
        if asked == 3:
            enough.set()
        return "default"

    policies = serve_policies(Settings(), [Snapshot("policy", 1, 0, {0: version(0)})], ())
    replicas = [replica("http://hangs"), replica("http://answers")]
    looking = asyncio.create_task(OwnWeights(replicas, policies.default, ask).run())
    async with asyncio.timeout(10):
        await enough.wait()
    looking.cancel()


def test_what_is_no_policys_has_no_version_to_lose() -> None:
    assert at_replica(Route("other"), None) == Route("other")
    assert at_replica(Route("base", "policy", 3, "policy"), None).version is None


def test_a_vote_on_what_nobody_stamped_is_told_so(running: Running) -> None:
    note(running, None)
    answer = running.chat(session_id="s").json()
    record = running.records()[0]
    running.services.store.add_transition(record)
    vote = {"response_id": answer["id"], "reward": 1.0}
    told = running.client.post("/feedback", json=vote).json()
    assert (told["training"], told["reason"]) == ("ignored", "mixed")
