"""Real vLLM, real TRL: one agent's policy learns, another agent's stays as it is, bit for bit."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.demo.questions import CALCULATOR
from ratchet.up import Loop
from tests.real.conftest import BASE, RealEngine, run_loop
from tests.real.test_loop import SESSIONS, until
from tests.trainer.test_rota import contents
from trainer.runs import Phase, all_runs
from trajectories.connection import Redis, connect
from trajectories.registry import Registry

# The first test of a session also makes the model and starts vLLM.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

POLICIES = {
    "planner": {"agents": ["planner"], "trainer": {"rank": 4, "alpha": 8}},
}


@pytest.fixture
def whole(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """The default policy and the planner's, one trainer for both."""
    environment = {
        "RATCHET_POLICIES": json.dumps(POLICIES),
        "RATCHET_ENGINE_MAX_LORAS": "4",  # what the engine of these tests has
        "RATCHET_TRAINER_BASE_MODEL_PATH": str(engine.model),
        "RATCHET_TRAINER_MIN_TRAJECTORIES": "16",
        "RATCHET_TRAINER_EPOCHS": "1",
        "RATCHET_TRAINER_LEARNING_RATE": "1e-3",
        "RATCHET_TRAINER_RANK": "8",
        "RATCHET_TRAINER_THREADS": "1",
        "RATCHET_TRAINER_DRAIN_SECONDS": "2",
        "HF_HUB_OFFLINE": "1",
    }
    yield from run_loop(engine, short_path, monkeypatch, environment, with_trainer=True)


@pytest.fixture
def redis(whole: Loop) -> Iterator[Redis]:
    assert whole.redis is not None
    client = connect(whole.redis.settings)
    yield client
    client.close()


@dataclass(frozen=True)
class Said:
    """A greedy answer with its numbers, and who gave it."""

    policy: str
    content: str
    logprobs: tuple[tuple[str, float], ...]


class Agent:
    """Calls the gateway under a name."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.root = f"http://127.0.0.1:{loop.settings.gateway.port}"
        self.name = name

    def ask(self, number: int, session: str, **sampling: Any) -> httpx2.Response:
        body = {
            "model": "policy",
            "messages": [{"role": "user", "content": f"What is {number} plus 7?"}],
            "tools": [CALCULATOR],
            "max_tokens": 40,
            **sampling,
        }
        headers = {"x-agent-id": self.name, "x-session-id": session}
        answer = httpx2.post(
            f"{self.root}/v1/chat/completions", json=body, headers=headers, timeout=60
        )
        assert answer.status_code == 200
        return answer

    def work(self) -> None:
        """Sessions with a call and a thumb, as many as a round needs and more."""
        for number in range(SESSIONS):
            session = f"{self.name}-{number}"
            self.ask(number + 2, session)
            thumb = "up" if number % 2 else "down"
            body = {"session_id": session, "thumb": thumb, "final": True}
            assert httpx2.post(f"{self.root}/v1/feedback", json=body).status_code == 202

    def recite(self) -> list[Said]:
        """The same few questions again, greedily, one at a time; nobody votes on them."""
        found = []
        for number in (3, 11, 27):
            answer = self.ask(number, f"recital-{self.name}", temperature=0, logprobs=True)
            choice = answer.json()["choices"][0]
            message = choice["message"]
            calls = [call["function"] for call in message.get("tool_calls") or []]  # not their ids
            numbers = [
                (entry["token"], entry["logprob"]) for entry in choice["logprobs"]["content"]
            ]
            content = json.dumps([message["content"], calls])
            found.append(Said(answer.headers["x-ratchet-policy"], content, tuple(numbers)))
        return found


def promoted(loop: Loop, redis: Redis, policy: str) -> bool:
    loop.supervise()
    failed = [run.read() for run in all_runs(loop.settings.runs_dir)]
    assert not [run for run in failed if run.phase in (Phase.FAILED, Phase.REJECTED)]
    return Registry(redis, policy, BASE).snapshot().current == 1


def test_of_two_agents_one_learns_and_the_other_stays_bit_for_bit(
    whole: Loop, redis: Redis
) -> None:
    planner, writer = Agent(whole, "planner"), Agent(whole, "writer")
    planner.work()
    until(lambda: promoted(whole, redis, "planner"), 200)
    until(lambda: planner.recite()[0].policy == "planner@1", 10)
    registry = Registry(redis, "planner", BASE)
    snapshot = registry.snapshot()
    path = snapshot.versions[1].path
    assert path is not None
    planner_said, planner_adapter = planner.recite(), contents(Path(path))
    writer_said = writer.recite()
    assert {said.policy for said in writer_said} == {"policy@0"}
    assert [said.logprobs for said in writer_said] != [said.logprobs for said in planner_said]

    writer.work()
    until(lambda: promoted(whole, redis, "policy"), 200)
    until(lambda: writer.ask(3, "fresh").headers["x-ratchet-policy"] == "policy@1", 10)

    assert planner.recite() == planner_said
    assert contents(Path(path)) == planner_adapter
    assert registry.snapshot().versions[1] == snapshot.versions[1]
    changed = Agent(whole, "other").recite()
    assert {said.policy for said in changed} == {"policy@1"}
    assert [said.logprobs for said in changed] != [said.logprobs for said in writer_said]
    plans = {run.plan().policy: run.plan() for run in all_runs(whole.settings.runs_dir)}
    assert {name: plan.trainer.rank for name, plan in plans.items()} == {"planner": 4, "policy": 8}
    assert not set(plans["planner"].refs) & set(plans["policy"].refs)
