"""Siblings by a real engine: it says when it is idle, and answers a recorded prompt anew."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.demo.questions import CALCULATOR
from ratchet.up import Loop
from tests.real.conftest import RealEngine, run_loop
from tests.real.test_judges import until
from trajectories.connection import connect
from trajectories.rollouts import siblings_of
from trajectories.store import Store, TrajectoryRef

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture
def house(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    environment = {
        "RATCHET_SIBLINGS_ENABLED": "true",
        "RATCHET_SIBLINGS_SHARE": "1.0",
        "RATCHET_SIBLINGS_ANSWERS": "3",
        "RATCHET_SIBLINGS_LOOK_SECONDS": "0.5",
    }
    yield from run_loop(engine, short_path, monkeypatch, environment, with_trainer=False)


def test_a_recorded_prompt_is_answered_anew_token_by_token(house: Loop) -> None:
    root = f"http://127.0.0.1:{house.settings.gateway.port}"
    body = {
        "model": "policy",
        "messages": [{"role": "user", "content": "What is 3 plus 7?"}],
        "tools": [CALCULATOR],
        "temperature": 1.0,
        "max_tokens": 20,
    }
    answer = httpx2.post(f"{root}/t/s1/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    vote = {"response_id": answer.json()["id"], "reward": 1.0, "final": True}
    assert httpx2.post(f"{root}/v1/feedback", json=vote, timeout=60).status_code == 202
    assert house.redis is not None
    store = Store(connect(house.redis.settings))
    ref = TrajectoryRef("default", answer.headers["x-ratchet-trajectory-id"])
    parent = until(lambda: store.trajectory(ref), 30).transitions[0]
    names = [TrajectoryRef("default", name) for name in siblings_of("default", parent.id)]

    def siblings() -> list[Any]:
        found = [entry for entry in store.trajectories(names) if entry is not None]
        return found if len(found) == 3 and all(entry.is_closed for entry in found) else []

    for sibling in until(siblings, 120):
        (call,) = sibling.transitions
        assert call.rollout == parent.id
        assert call.prompt_token_ids == parent.prompt_token_ids
        assert call.sampling == parent.sampling
        assert call.choices[0].is_aligned
        assert call.policy_version == 0
