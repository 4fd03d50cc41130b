"""Real vLLM, real TRL, every process: from thumbs to a served adapter, and back."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from typer.testing import CliRunner

from ratchet import cli
from ratchet.demo.questions import CALCULATOR
from ratchet.up import Loop
from tests.real.conftest import BASE, RealEngine, run_loop
from trainer.runs import Phase, all_runs
from trajectories.connection import connect
from trajectories.registry import Registry
from trajectories.resources import MANIFEST, AdapterManifest, VersionState

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SESSIONS = 24


@pytest.fixture
def whole(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    environment = {
        "RATCHET_TRAINER_BASE_MODEL_PATH": str(engine.model),
        "RATCHET_TRAINER_MIN_TRAJECTORIES": "16",
        "RATCHET_TRAINER_EPOCHS": "1",
        "RATCHET_TRAINER_RANK": "8",
        "RATCHET_TRAINER_THREADS": "1",
        "RATCHET_TRAINER_DRAIN_SECONDS": "2",
        "HF_HUB_OFFLINE": "1",
    }
    yield from run_loop(engine, short_path, monkeypatch, environment, with_trainer=True)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def talk(root: str, first: int) -> None:
    """SESSIONS sessions, each with a call and a thumb; every one has to be answered."""
    with openai.OpenAI(base_url=root, api_key="none", max_retries=0) as client:
        for number in range(first, first + SESSIONS):
            session = f"s{number}"
            client.with_options(base_url=f"{root}/t/{session}/v1").chat.completions.create(
                model="policy",
                messages=[{"role": "user", "content": f"What is {number + 2} plus 7?"}],
                tools=[CALCULATOR],  # type: ignore[list-item]
                max_tokens=40,
            )
            thumb = "up" if number % 2 else "down"
            body = {"session_id": session, "thumb": thumb, "final": True}
            assert httpx2.post(f"{root}/v1/feedback", json=body).status_code == 202


def test_a_trainer_killed_in_every_phase_disturbs_nobody_and_promotes_once(whole: Loop) -> None:
    root = f"http://127.0.0.1:{whole.settings.gateway.port}"
    talk(root, 0)
    assert whole.redis is not None
    redis = connect(whole.redis.settings)
    registry = Registry(redis, "policy", BASE)
    stop, answers = threading.Event(), list[int]()

    def keep_asking() -> None:
        body = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
        while not stop.is_set():
            reply = httpx2.post(f"{root}/v1/chat/completions", json=body, timeout=60)
            answers.append(reply.status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for phase in (Phase.COLLECTED, Phase.TRAINED, Phase.LOADED):
            until(lambda phase=phase: has_reached(whole, phase), 120)
            kill_trainer(whole)
        until(lambda: (whole.supervise(), registry.snapshot().current == 1)[1], 150)
    finally:
        stop.set()
        asking.join()
    assert set(answers) == {200}
    assert set(registry.snapshot().versions) == {0, 1}
    runs = all_runs(whole.settings.runs_dir)
    refs = [ref for run in runs for ref in run.plan().refs]
    assert len(refs) == len(set(refs))
    redis.close()


def kill_trainer(loop: Loop) -> None:
    """SIGKILL, and wait until the supervisor has started another one."""
    child = loop.supervisor["trainer"]
    assert child.pid is not None
    restarts = child.restarts
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: (loop.supervise(), child.restarts > restarts)[1], 30)


ORDER = (
    Phase.COLLECTED,
    Phase.TRAINED,
    Phase.PUBLISHED,
    Phase.LOADED,
    Phase.PROBED,
    Phase.PROMOTED,
)


def has_reached(loop: Loop, phase: Phase) -> bool:
    """Whether the first run has come to `phase`, or past it already."""
    runs = all_runs(loop.settings.runs_dir)
    return bool(runs) and ORDER.index(runs[0].read().phase) >= ORDER.index(phase)


def test_thumbs_become_a_served_adapter_and_a_rollback_takes_it_back(whole: Loop) -> None:
    root = f"http://127.0.0.1:{whole.settings.gateway.port}"
    talk(root, 0)
    with httpx2.Client() as user:
        assert whole.redis is not None
        redis = connect(whole.redis.settings)
        registry = Registry(redis, "policy", BASE)
        snapshot = until(lambda: s if (s := registry.snapshot()).current == 1 else None, 150)
        version = snapshot.versions[1]
        manifest = AdapterManifest.from_json((Path(version.path) / MANIFEST).read_bytes())
        assert len(manifest.lineage.trajectory_ids) >= 16
        assert manifest.lineage.reward_sources["feedback:human"] >= 16
        assert version.metrics["behaviour_gap"] < 1e-3
        assert version.metrics["probe_error"] < 1e-4

        def serves(number: int) -> bool:
            answer = user.post(
                f"{root}/v1/chat/completions",
                json={"model": "policy", "messages": [{"role": "user", "content": "hi"}]},
                timeout=60,
            )
            return bool(answer.headers["x-ratchet-policy"] == f"policy@{number}")

        until(lambda: serves(1), 10)
        status = user.get(f"{root}/training/status").json()
        assert status["policy"]["current"] == 1
        assert status["average_reward"] is not None
        assert CliRunner().invoke(cli.app, ["rollback"]).exit_code == 0
        until(lambda: serves(0), 10)
        assert registry.snapshot().versions[1].state is not VersionState.CURRENT
        redis.close()
