"""Real vLLM behind a real gateway: versions change while streams run."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import openai
import pytest

from ratchet.demo.questions import CALCULATOR
from ratchet.up import Loop
from tests.real.conftest import candidate
from trainer.base import fingerprint
from trainer.delivery.engine import Engine
from trainer.delivery.gate import Expected
from trainer.delivery.swap import Swap
from trajectories.connection import Redis, connect
from trajectories.ids import trajectory_id
from trajectories.registry import Registry
from trajectories.resources import VersionState
from trajectories.store import Store, TrajectoryRef

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MakeAdapter = Callable[[], tuple[int, Path]]
CLIENTS = 8
SWAPS = 5
BASE = "calculator"


@dataclass
class Stream:
    """One stream, as its client saw it."""

    session: str
    version: str  # what the gateway's header says
    text: str
    is_complete: bool
    started_at: float


@dataclass
class Clients:
    """Streaming clients that never pause; greedy, so that an answer tells the weights."""

    root: str  # the gateway's address, without /v1
    streams: list[Stream] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        with openai.OpenAI(base_url=self.root, api_key="none", max_retries=0) as client:
            count = 0
            while not self.stop.is_set():
                count += 1
                try:
                    self.streams.append(ask(client, self.root, f"c{number}-{count}"))
                except openai.OpenAIError as error:
                    self.errors.append(repr(error))


def ask(client: openai.OpenAI, root: str, session: str) -> Stream:
    """One streamed call in a session of its own; only the path says which."""
    started = time.monotonic()
    in_session = client.with_options(base_url=f"{root}/t/{session}/v1")
    raw = in_session.chat.completions.with_raw_response.create(
        model="policy",
        messages=[{"role": "user", "content": "What is 3 plus 7?"}],
        tools=[CALCULATOR],  # type: ignore[list-item]
        temperature=0,
        max_tokens=60,
        stream=True,
    )
    text, finish = "", None
    for chunk in raw.parse():
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                if call.function:
                    text += (call.function.name or "") + (call.function.arguments or "")
            finish = choice.finish_reason or finish
    return Stream(session, raw.headers["x-ratchet-policy"], text, finish is not None, started)


def gateway_root(loop: Loop) -> str:
    return f"http://127.0.0.1:{loop.settings.gateway.port}"


@pytest.fixture
def redis(loop: Loop) -> Iterator[Redis]:
    assert loop.redis is not None
    client = connect(loop.redis.settings)
    yield client
    client.close()


def test_eight_streaming_clients_through_five_swaps_lose_nothing_and_mix_nothing(
    engine, loop: Loop, redis: Redis, make_adapter: MakeAdapter, adapters_dir: Path
) -> None:
    registry = Registry(redis, "policy", BASE)
    clients = Clients(gateway_root(loop))
    threads = [threading.Thread(target=clients.run, args=(n,)) for n in range(CLIENTS)]
    published = [make_adapter() for _ in range(SWAPS)]
    promoted: dict[int, float] = {}
    with Engine(engine.url) as client:
        expected = Expected(
            base_model=BASE, base_sha256=fingerprint(engine.model, adapters_dir / "base.json")
        )
        swap = Swap([client], registry, expected=expected, drain_seconds=1)
        for thread in threads:
            thread.start()
        try:
            for version, path in published:
                entry = candidate(version, path)
                registry.add(entry)
                swap.load(entry)
                swap.promote(version)
                promoted[version] = time.monotonic()
                until = time.monotonic() + 4
                while time.monotonic() < until:
                    swap.retire()
                    time.sleep(0.1)
        finally:
            clients.stop.set()
            for thread in threads:
                thread.join()
        assert clients.errors == []
        assert all(stream.is_complete for stream in clients.streams)
        by_version: dict[str, set[str]] = {}
        for stream in clients.streams:
            by_version.setdefault(stream.version, set()).add(stream.text)
        assert {f"policy@{version}" for version, _ in published} <= set(by_version)
        assert all(len(texts) == 1 for texts in by_version.values()), by_version
        assert len({next(iter(texts)) for texts in by_version.values()}) > 1
        states = {n: entry.state for n, entry in registry.snapshot().versions.items()}
        assert states[published[-1][0]] is VersionState.CURRENT
        assert states[published[0][0]] is VersionState.UNLOADED
        for _, path in published:
            client.unload(path.name)
    assert_recorded_as_served(redis, clients.streams)


def assert_recorded_as_served(redis: Redis, streams: list[Stream]) -> None:
    """Every stream is one recorded transition, stamped with the version that answered."""
    store = Store(redis)
    deadline = time.monotonic() + 30
    while store.counts()["transitions"] < len(streams):
        assert time.monotonic() < deadline, store.counts()
        time.sleep(0.1)
    assert store.counts()["transitions"] == len(streams)
    for stream in streams:
        ref = TrajectoryRef("default", trajectory_id("default", session=stream.session, task=None))
        trajectory = store.trajectory(ref)
        assert trajectory is not None
        (transition,) = trajectory.transitions
        assert f"policy@{transition.policy_version}" == stream.version
        assert transition.choices[0].is_aligned


def test_the_new_version_answers_within_a_second_of_its_promotion(
    engine, loop: Loop, redis: Redis, make_adapter: MakeAdapter
) -> None:
    registry = Registry(redis, "policy", BASE)
    version, path = make_adapter()
    registry.add(candidate(version, path))
    root = gateway_root(loop)
    with Engine(engine.url) as client, openai.OpenAI(base_url=root, api_key="none") as caller:
        client.load(path.name, str(path))
        registry.promote(version)
        promoted = time.monotonic()
        count = 0
        while True:
            count += 1
            stream = ask(caller, root, f"n{count}")
            if stream.version == f"policy@{version}":
                break
            assert time.monotonic() - promoted < 5
        # The second is the promise; the request itself has to fit in as well.
        assert stream.started_at - promoted < 1.0
        client.unload(path.name)


def test_a_running_trajectory_ends_on_the_version_it_began_with(
    engine, loop: Loop, redis: Redis, make_adapter: MakeAdapter
) -> None:
    registry = Registry(redis, "policy", BASE)
    root = gateway_root(loop)
    with Engine(engine.url) as client, openai.OpenAI(base_url=root, api_key="none") as caller:
        before = ask(caller, root, "long")
        version, path = make_adapter()
        registry.add(candidate(version, path))
        client.load(path.name, str(path))
        registry.promote(version)
        deadline = time.monotonic() + 5
        count = 0
        while ask(caller, root, f"fresh-{count}").version != f"policy@{version}":
            count += 1
            assert time.monotonic() < deadline
        assert ask(caller, root, "long").version == before.version == "policy@0"
        client.unload(path.name)
