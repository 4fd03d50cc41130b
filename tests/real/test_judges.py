"""A judge by a real model: asked through the gateway, held to the form by the engine's grammar.

The model is tiny and judges nothing; what is shown is that its verdict has the
form, becomes a reward, and is not itself recorded.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.up import Loop
from tests.real.conftest import RealEngine, run_loop
from trajectories import keys
from trajectories.connection import connect
from trajectories.store import Store

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

JUDGE = {
    "model": "policy",
    "reasons": False,
    "max_tokens": 64,
    "rubric": "Be right.",
    "attempts": 1,
}


@pytest.fixture
def judged(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    judges = {"fair": JUDGE, "wordless": {**JUDGE, "output": "text", "version": "2"}}
    environment = {"RATCHET_JUDGES": json.dumps(judges)}
    yield from run_loop(engine, short_path, monkeypatch, environment, with_trainer=False)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def test_a_real_models_verdict_is_a_reward_and_its_failure_is_none(judged: Loop) -> None:
    root = f"http://127.0.0.1:{judged.settings.gateway.port}"
    body = {
        "model": "policy",
        "messages": [{"role": "user", "content": "What is 3 plus 7?"}],
        "max_tokens": 20,
    }
    answer = httpx2.post(f"{root}/t/s1/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert judged.redis is not None
    redis = connect(judged.redis.settings)
    store = Store(redis)
    (ref,) = until(lambda: list(store.all_trajectories()), 30)
    states = until(lambda: _both_over(store, ref), 120)
    assert states["fair"].state == "given", redis.xrange(keys.QUARANTINE)
    found = until(lambda: _rewarded(store, ref), 30)
    (reward,) = (reward for reward in found.rewards if reward.source == "feedback:judge:fair")
    assert reward.value in [2 * score / 10 - 1 for score in range(11)]
    assert found.reward is not None
    assert found.breakdown is not None
    assert reward.id in found.breakdown.shares
    # Without the grammar this model says no JSON: that is no verdict, and no 0.
    assert (states["wordless"].state, states["wordless"].reason) == ("failed", "garbage")
    assert redis.xlen(keys.QUARANTINE) == 1
    assert list(store.all_trajectories()) == [ref], "what the judge was asked is not recorded"
    spent = store.verdict_counts("fair", "default")
    assert spent["calls"] == 1
    assert spent["tokens"] > 100


def _both_over(store: Store, ref: Any) -> Any:
    states = store.verdict_states(ref)
    is_over = len(states) == 2 and all(state.is_over for state in states.values())
    return states if is_over else None


def _rewarded(store: Store, ref: Any) -> Any:
    found = store.trajectory(ref)
    return found if found is not None and found.reward is not None else None
