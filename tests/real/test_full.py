"""Real vLLM behind a real gateway: all of its weights are exchanged while streams run."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.demo.questions import CALCULATOR
from ratchet.up import Loop
from tests.real.conftest import BASE, RealEngine, run_loop, sampled_rows
from tests.real.test_swaps import CLIENTS, Clients, Stream, gateway_root
from trainer.base import fingerprint
from trainer.batch.samples import Sample
from trainer.delivery.engine import Engine, EngineUnavailable
from trainer.delivery.full_swap import FullSwap
from trainer.delivery.gate import Expected
from trainer.delivery.publish import publish
from trainer.delivery.shelf import Shelf
from trainer.delivery.weights import Whole
from trainer.runs import Plan
from trajectories.connection import Redis, connect
from trajectories.errors import AdapterError
from trajectories.ids import trajectory_id
from trajectories.registry import Registry
from trajectories.resources import Kind, PolicyVersion, VersionState
from trajectories.settings import TrainerSettings
from trajectories.store import Store, TrajectoryRef

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
def whole(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """A house of full weights; the test is its trainer."""
    environment = {
        "RATCHET_TRAINER_WEIGHTS": "full",
        "RATCHET_TRAINER_BASE_MODEL_PATH": str(engine.model),
    }
    yield from run_loop(engine, short_path, monkeypatch, environment, with_trainer=False)


@pytest.fixture
def redis(whole: Loop) -> Iterator[Redis]:
    assert whole.redis is not None
    client = connect(whole.redis.settings)
    yield client
    client.close()


@contextmanager
def swapping(
    engine: RealEngine, registry: Registry, path: Path, pause_seconds: float = 60
) -> Iterator[FullSwap]:
    """The swap of the test's trainer; whatever happens, the engine has its base afterwards."""
    with Engine(engine.url) as client:
        sha256 = fingerprint(engine.model, path / "base.json")
        swap = FullSwap(
            [client],
            registry,
            expected=Expected(BASE, sha256, whole=Whole(engine.model, "float32")),
            drain_seconds=1,
            pause_seconds=pause_seconds,
            shelf=Shelf(path / "runs", path / "versions", 2),
        )
        swap.check()
        try:
            assert swap.reconcile() == []
            yield swap
        finally:
            client.pause(60)
            client.reload(str(engine.model), 60)
            client.name_weights("default")
            client.reset_caches()
            client.resume()


def publish_whole(engine: RealEngine, path: Path, version: int) -> PolicyVersion:
    """A version whose every weight is a little different from the base's."""
    import torch

    from trainer.policy import load_policy, make_optimizer, save_policy

    samples = [
        Sample(
            id=f"tr_{n}/0",
            trajectory=f"default/traj_{n}",
            tenant="default",
            agent=None,
            task=None,
            version=0,
            prompt_token_ids=tuple(prompt),
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs),
            reward=1.0,
        )
        for n, (prompt, tokens, logprobs) in enumerate(sampled_rows(engine.url))
    ]
    settings = TrainerSettings(
        weights="full", base_model_path=str(engine.model), threads=1, device="cpu"
    )
    plan = Plan(
        run_id=f"run_{version}",
        policy="policy",
        algorithm="sft",
        base_path=str(engine.model),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=settings,
        refs=(),
    )
    torch.manual_seed(version)
    model, _ = load_policy(plan)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn_like(parameter))
    trained = path / "runs" / plan.run_id / "trained"
    trained.parent.mkdir(parents=True)
    save_policy(
        trained,
        model=model,
        samples=samples,
        optimizer=make_optimizer(model, settings, None),
        dtype="float32",
        whole=plan,
    )
    directory = publish(
        trained,
        path / "versions",
        plan=plan,
        version=version,
        base_model=BASE,
        base_sha256=fingerprint(engine.model, path / "base.json"),
        metrics={},
        reached=lambda _point: None,
    )
    return PolicyVersion(
        policy="policy",
        version=version,
        model=directory.name,
        state=VersionState.CANDIDATE,
        kind=Kind.FULL,
        path=str(directory),
        parent=plan.parent,
        run_id=plan.run_id,
    )


def greedy(engine: RealEngine) -> Any:
    """An answer with its numbers, straight from the engine."""
    body = {
        "model": BASE,
        "messages": [{"role": "user", "content": "What is 3 plus 7?"}],
        "tools": [CALCULATOR],
        "temperature": 0,
        "max_tokens": 40,
        "logprobs": True,
        "return_token_ids": True,
    }
    reply = httpx2.post(f"{engine.url}/v1/chat/completions", json=body, timeout=60).json()
    (choice,) = reply["choices"]
    return choice["token_ids"], [entry["logprob"] for entry in choice["logprobs"]["content"]]


def until_answered_by(streams: list[Stream], version: str) -> None:
    deadline = time.monotonic() + 60
    while not any(stream.version == version for stream in streams):
        assert time.monotonic() < deadline, [stream.version for stream in streams[-8:]]
        time.sleep(0.1)


def test_streams_through_an_exchange_lose_nothing_and_a_rollback_is_exact(
    engine: RealEngine, whole: Loop, redis: Redis, tmp_path: Path
) -> None:
    registry = Registry(redis, "policy", BASE)
    entry = publish_whole(engine, tmp_path, 1)
    registry.add(entry)
    first = greedy(engine)
    clients = Clients(gateway_root(whole))
    threads = [threading.Thread(target=clients.run, args=(n,)) for n in range(CLIENTS)]
    with swapping(engine, registry, tmp_path) as swap:
        for thread in threads:
            thread.start()
        try:
            until_answered_by(clients.streams, "policy@0")
            swap.load(entry)
            assert swap.prove(entry) < 1e-4, "what is served is what was trained"
            swap.promote(1)
            until_answered_by(clients.streams, "policy@1")
        finally:
            clients.stop.set()
            for thread in threads:
                thread.join()
        assert clients.errors == []
        assert all(stream.is_complete for stream in clients.streams)
        assert_stamped_as_answered(redis, clients.streams)
        assert greedy(engine) != first
        swap.roll_back(0)
        assert greedy(engine) == first, "bit for bit"


def assert_stamped_as_answered(redis: Redis, streams: list[Stream]) -> None:
    """One answer for each version: greedy streams of the same weights are the same."""
    store = Store(redis)
    deadline = time.monotonic() + 30
    while store.counts()["transitions"] < len(streams):
        assert time.monotonic() < deadline, store.counts()
        time.sleep(0.1)
    texts: dict[int | None, set[str]] = {}
    for stream in streams:
        ref = TrajectoryRef("default", trajectory_id("default", session=stream.session, task=None))
        trajectory = store.trajectory(ref)
        assert trajectory is not None
        (transition,) = trajectory.transitions
        assert transition.policy == "policy"
        texts.setdefault(transition.policy_version, set()).add(stream.text)
    assert texts.keys() >= {0, 1}
    assert len(texts[0]) == len(texts[1]) == 1
    assert texts[0] != texts[1]


def test_a_reload_that_vllm_refuses_leaves_what_served(
    engine: RealEngine, whole: Loop, redis: Redis, tmp_path: Path
) -> None:
    """The gate would have stopped it; this is what happens to what gets past."""
    registry = Registry(redis, "policy", BASE)
    entry = publish_whole(engine, tmp_path, 1)
    registry.add(entry)
    first = greedy(engine)
    with swapping(engine, registry, tmp_path) as swap:
        swap.load(entry)  # the gate has seen it, and then somebody empties it
        assert entry.path is not None
        with (Path(entry.path) / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
        swap._renewal.check = lambda entry: None  # type: ignore[method-assign]
        with pytest.raises(AdapterError, match="refused version 1"):
            swap.prove(entry)
        assert greedy(engine) == first
        assert registry.snapshot().weights[engine.url].version == 0


def test_a_pause_that_is_given_up_leaves_the_engine_as_it_was(
    engine: RealEngine, whole: Loop, redis: Redis, tmp_path: Path
) -> None:
    registry = Registry(redis, "policy", BASE)
    entry = publish_whole(engine, tmp_path, 1)
    registry.add(entry)
    first = greedy(engine)
    body = {"model": BASE, "prompt": [5, 6, 7], "max_tokens": 1500, "ignore_eos": True}
    stop, counts = threading.Event(), []

    def ask_for_long() -> None:
        while not stop.is_set():
            reply = httpx2.post(f"{engine.url}/v1/completions", json=body, timeout=120)
            counts.append(reply.json()["usage"]["completion_tokens"])

    asking = threading.Thread(target=ask_for_long)
    # No engine answers within a millisecond: however fast the machine, this pause is given up.
    with swapping(engine, registry, tmp_path, pause_seconds=0.001) as swap:
        try:
            asking.start()
            time.sleep(0.3)
            with pytest.raises(EngineUnavailable, match=r"trainer.pause_seconds"):
                swap.prove(entry)
            assert registry.snapshot().weights[engine.url].version == 0
            assert greedy(engine) == first, "calls go on at once, the long ones still running"
        finally:
            stop.set()
            asking.join()
        assert set(counts) == {1500}
        swap._renewal._pause_seconds = 60
        assert swap.prove(entry) < 1e-4, "and now it is free"
