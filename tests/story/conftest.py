"""The whole house but the trainer, as `ratchet up` starts it, before a fake engine."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.processes import file_sink
from ratchet.up import Loop
from tests.fakes.vllm import FakeVLLM
from tests.key_leak import key_leaks
from trajectories.connection import Redis, connect
from trajectories.ids import trajectory_id
from trajectories.model import Trajectory
from trajectories.registry import Registry
from trajectories.settings import load_settings
from trajectories.store import Store, TrajectoryRef


@dataclass
class House:
    """Everything a story needs to touch."""

    loop: Loop
    engine: FakeVLLM
    redis: Redis
    store: Store
    registry: Registry
    client: httpx2.Client
    url: str

    def chat(self, session: str, text: str = "hi", **body: Any) -> httpx2.Response:
        """One call in a session."""
        content = {"model": "policy", "messages": [{"role": "user", "content": text}], **body}
        return self.client.post(f"/t/{session}/v1/chat/completions", json=content)

    def trajectory(self, session: str) -> Trajectory | None:
        name = trajectory_id("default", session=session, task=None)
        return self.store.trajectory(TrajectoryRef("default", name))

    def recorded(self, session: str, calls: int = 1) -> Trajectory:
        """The trajectory of a session, once `calls` of it have arrived."""
        return self.eventually(
            session, lambda found: found if len(found.transitions) >= calls else None
        )

    def rewarded(self, session: str) -> Trajectory:
        return self.eventually(session, lambda found: found if found.reward is not None else None)

    def eventually(
        self, session: str, condition: Callable[[Trajectory], Trajectory | None]
    ) -> Trajectory:
        def look() -> Trajectory | None:
            found = self.trajectory(session)
            return condition(found) if found is not None else None

        return eventually(look)


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """One house for all stories; each story has sessions of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as environment,
        FakeVLLM().serve() as engine,
    ):
        directory = Path(name)
        environment.setenv("RATCHET_DATA_DIR", name)
        environment.setenv("RATCHET_UPSTREAM_URL", engine.url)
        environment.setenv("RATCHET_GATEWAY_PORT", str(free_port()))
        environment.setenv("RATCHET_REDIS_TIMEOUT_SECONDS", "5")
        environment.setenv("RATCHET_REWARDS_LABEL_WINDOW_SECONDS", "1")
        settings = load_settings()
        loop = Loop(settings, file_sink(directory / "loop.log"), with_trainer=False)
        try:
            loop.start()
            assert loop.redis is not None
            redis = connect(loop.redis.settings)
            url = f"http://127.0.0.1:{settings.gateway.port}"
            with httpx2.Client(base_url=url, timeout=30) as client:
                registry = Registry(redis, settings.policy, settings.upstream.base_model)
                yield House(loop, engine, redis, Store(redis), registry, client, url)
                assert key_leaks(redis) == []
            redis.close()
        finally:
            loop.stop()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
