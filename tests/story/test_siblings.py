"""Further answers to recorded prompts: asked for while nobody asks, and seen by nobody."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.processes import file_sink
from ratchet.up import Loop
from tests.fakes.vllm import FakeVLLM
from tests.key_leak import key_leaks
from tests.story.conftest import House, eventually, free_port
from trajectories.connection import connect
from trajectories.registry import Registry
from trajectories.rollouts import siblings_of
from trajectories.settings import load_settings
from trajectories.store import Store, TrajectoryRef


@pytest.fixture
def house() -> Iterator[House]:
    """A house that asks for siblings."""
    with (
        tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as environment,
        FakeVLLM().serve() as engine,
    ):
        for variable, value in {
            "DATA_DIR": name,
            "UPSTREAM_URL": engine.url,
            "GATEWAY_PORT": str(free_port()),
            "REDIS_TIMEOUT_SECONDS": "5",
            "REWARDS_LABEL_WINDOW_SECONDS": "600",
            "SIBLINGS_ENABLED": "true",
            "SIBLINGS_SHARE": "1.0",
            "SIBLINGS_ANSWERS": "2",
            "SIBLINGS_LOOK_SECONDS": "0.2",
        }.items():
            environment.setenv(f"RATCHET_{variable}", value)
        settings = load_settings()
        loop = Loop(settings, file_sink(Path(name) / "loop.log"), with_trainer=False)
        engine.waiting = 1
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


def test_a_recorded_prompt_is_answered_anew_once_the_engine_is_idle(house: House) -> None:
    answer = house.chat("s1", "What is 2 + 2?", temperature=1.0)
    final = {"response_id": answer.json()["id"], "reward": 1.0, "final": True}
    assert house.client.post("/v1/feedback", json=final).status_code == 202
    parent = house.rewarded("s1")
    assert asked(house) == 1  # the engine says that somebody waits

    def siblings() -> list[Any]:
        names = siblings_of("default", parent.transitions[0].id)
        found = house.store.trajectories([TrajectoryRef("default", name) for name in names])
        return [entry for entry in found if entry is not None and entry.is_closed]

    house.engine.waiting = 0
    found = eventually(lambda: rolled if len(rolled := siblings()) == 2 else None)
    for sibling in found:
        (call,) = sibling.transitions
        assert sibling.rollout == call.rollout == parent.transitions[0].id
        assert call.request["messages"] == parent.transitions[0].request["messages"]
        assert call.prompt_token_ids == parent.transitions[0].prompt_token_ids
        assert call.choices[0].is_aligned
    status = eventually(
        lambda: said if (said := house.client.get("/training/status").json())["rollouts"] else None
    )
    assert status["total_trajectories"] == 1
    assert asked(house) == 3


def asked(house: House) -> int:
    """How many answers the engine was asked for."""
    return sum(seen.path == "/v1/chat/completions" for seen in house.engine.requests)
