"""A gateway before a scripted upstream, with a real Redis and the dispatcher behind it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from gateway.app import create_app
from tests.clients.differential import CLIENT_KEY, UPSTREAM_KEY, Client, scripted
from tests.fakes.openai_server import ScriptedServer
from tests.gateway.conftest import serving, settings_for, wait_for
from trajectories.connection import connect
from trajectories.model import Trajectory, Transition
from trajectories.settings import RedisSettings, Settings
from trajectories.store import Store
from workers.dispatcher import build_dispatcher
from workers.timing import Timing

pytest.register_assert_rewrite("tests.clients.checks")

MODELS = ("gpt-4o-mini", "claude-sonnet-4-6", "text-embedding-3-small")
BASE = "base"  # what the policy is called in its engine
NEVER = Event()


@dataclass
class Place:
    """A gateway that serves, and what stands behind it."""

    url: str
    behind: ScriptedServer
    straight: ScriptedServer  # the like of it, without us
    settings: Settings
    store: Store

    def trajectories(self, transitions: int) -> list[Trajectory]:
        """What the workers made of the traffic, once `transitions` of it have arrived."""
        dispatcher = build_dispatcher(self.settings, Timing(block=0.05))

        def have_arrived() -> bool:
            dispatcher.step(NEVER)
            return self.store.counts()["transitions"] >= transitions

        wait_for(have_arrived, 20)
        found = [self.store.trajectory(ref) for ref in self.store.all_trajectories()]
        return [trajectory for trajectory in found if trajectory is not None]

    def transitions(self, count: int) -> list[Transition]:
        """What is in the trajectories, oldest first, once `count` transitions have arrived."""
        found = [t for whole in self.trajectories(count) for t in whole.transitions]
        return sorted(found, key=lambda transition: transition.started_at)


@pytest.fixture
def _can_run(client: Client) -> None:
    """Skips, with the reason, where a client is not installed."""
    if client.missing is not None:
        pytest.skip(client.missing)


@pytest.fixture
def build(tmp_path: Path, redis_settings: RedisSettings) -> Iterator[Callable[..., Place]]:
    """`build(behind, straight, **sections)`: a gateway before `behind`."""
    with ExitStack() as stack:

        def run(behind: ScriptedServer, straight: ScriptedServer, **sections: Any) -> Place:
            upstream = {"api_key": UPSTREAM_KEY, "base_model": BASE, "retries": 0}
            gateway = {"api_key": CLIENT_KEY, **sections.pop("gateway", {})}
            settings = settings_for(
                tmp_path / "data",
                behind.url,
                redis=redis_settings,
                upstream={**upstream, **sections.pop("upstream", {})},
                gateway=gateway,
                **sections,
            )
            app = create_app(settings)
            url = stack.enter_context(serving(app))
            redis = connect(settings.redis)
            stack.callback(redis.close)
            return Place(url, behind, straight, settings, Store(redis))

        yield run


@pytest.fixture
def policy(build: Callable[..., Place]) -> Iterator[Place]:
    """Our policy, served by a vLLM that speaks chat, under the names that clients use."""
    with ExitStack() as stack:
        behind = scripted(stack, is_vllm=True, base_model=BASE)
        straight = scripted(stack, is_vllm=True, base_model=MODELS[0])
        yield build(behind, straight, gateway={"aliases": MODELS})


@pytest.fixture
def foreign(build: Callable[..., Place]) -> Iterator[Place]:
    """Somebody else's models, at a server that speaks every dialect itself."""
    with ExitStack() as stack:
        behind, straight = scripted(stack), scripted(stack)
        spoken = ("chat", "completions", "responses", "messages", "embeddings")
        other = {"kind": "openai", "url": behind.url, "api_key": UPSTREAM_KEY, "dialects": spoken}
        yield build(
            behind,
            straight,
            upstreams={"other": other},
            routes={name: {"upstream": "other"} for name in MODELS},
        )
