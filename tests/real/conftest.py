"""A real vLLM on the CPU, one for the whole run, with a model made on the spot.

Also adapters as the trainer publishes them: real LoRA weights, a manifest, and
probes computed by the trainer's own forward.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from ratchet.demo.questions import CALCULATOR
from ratchet.demo.world import free_port
from ratchet.processes import Child
from ratchet.up import Loop, answers, engine_spec, vllm_version
from trajectories.resources import PolicyVersion, VersionState
from trajectories.settings import (
    EngineSettings,
    Settings,
    TrainerSettings,
    UpstreamSettings,
    load_settings,
)

BASE = "calculator"
START_SECONDS = 240.0


@dataclass(frozen=True)
class RealEngine:
    """Where the engine is and what it serves."""

    url: str
    model: Path
    log: list[str]
    pid: int


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEngine]:
    """One vLLM server; skipped, with the way out, where vLLM is not installed."""
    if vllm_version() is None:
        pytest.skip("vLLM is not installed: `make install` brings its CPU build")
    model = tmp_path_factory.mktemp("model") / "model"
    subprocess.run(
        [sys.executable, "-m", "ratchet.demo.model", str(model), "--seed", "7", "--steps", "250"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{free_port()}"
    settings = Settings(
        upstream=UpstreamSettings(url=url, base_model=BASE),
        engine=EngineSettings(
            serve=True,
            model=str(model),
            dtype="float32",
            max_model_len=2048,
            arguments=(
                *("--kv-cache-memory-bytes", "64M", "--max-num-seqs", "16"),
                # A grammar that allows blanks anywhere lets so small a model write nothing else.
                *("--structured-outputs-config.disable_any_whitespace", "true"),
                *("--structured-outputs-config.backend", "xgrammar"),
            ),
        ),
    )
    log: list[str] = []
    child = Child(
        # With the routes of full weights beside those of adapters: one engine for all tests.
        engine_spec(settings, {"HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1"}),
        lambda _name, line: log.append(line),
    )
    child.start()
    deadline = time.monotonic() + START_SECONDS
    while not answers(f"{url}/health"):
        if not child.is_running or time.monotonic() > deadline:
            child.stop()
            pytest.fail("vLLM did not start:\n" + "\n".join(log[-40:]))
        time.sleep(0.3)
    assert child.pid is not None
    yield RealEngine(url, model, log, child.pid)
    child.stop()


@pytest.fixture(scope="session")
def trainer_settings(engine: RealEngine) -> TrainerSettings:
    return TrainerSettings(
        base_model_path=str(engine.model), rank=8, alpha=16, threads=1, device="cpu"
    )


@pytest.fixture(scope="session")
def adapters_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def make_adapter(
    engine: RealEngine, trainer_settings: TrainerSettings, adapters_dir: Path
) -> Callable[[], tuple[int, Path]]:
    """Publish one more adapter with weights of its own; returns its version and directory."""
    import torch

    from trainer.base import fingerprint
    from trainer.batch.samples import Sample
    from trainer.delivery.publish import publish
    from trainer.policy import load_policy, make_optimizer, save_policy
    from trainer.runs import Plan

    rows = sampled_rows(engine.url)
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
        for n, (prompt, tokens, logprobs) in enumerate(rows)
    ]

    def publish_one() -> tuple[int, Path]:
        version = next(_numbers)
        plan = Plan(
            run_id=f"run_{version}",
            policy="policy",
            algorithm="grpo",
            base_path=str(engine.model),
            parent=0,
            parent_path=None,
            optimizer_path=None,
            trainer=trainer_settings,
            refs=tuple(sample.trajectory for sample in samples),
        )
        torch.manual_seed(version)
        model, _ = load_policy(plan)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        trained = adapters_dir / f"trained-{version}"
        optimizer = make_optimizer(model, trainer_settings, None)
        save_policy(trained, model=model, samples=samples, optimizer=optimizer, dtype="float32")
        path = publish(
            trained,
            adapters_dir / "published",
            plan=plan,
            version=version,
            base_model=BASE,
            base_sha256=fingerprint(engine.model, adapters_dir / "base.json"),
            metrics={},
            reached=lambda _point: None,
        )
        return version, path

    return publish_one


def candidate(version: int, path: Path) -> PolicyVersion:
    """The registry's line for a published adapter."""
    return PolicyVersion(
        policy="policy",
        version=version,
        model=path.name,
        state=VersionState.CANDIDATE,
        path=str(path),
    )


def sampled_rows(url: str) -> list[tuple[list[int], list[int], list[float]]]:
    """A few answers of the base model, with its own token ids and logprobs."""
    rows = []
    for number in range(3, 9):
        body = {
            "model": BASE,
            "messages": [{"role": "user", "content": f"What is {number} plus 7?"}],
            "tools": [CALCULATOR],
            "max_tokens": 40,
            "logprobs": True,
            "return_token_ids": True,
        }
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
        choice = answer["choices"][0]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        rows.append((answer["prompt_token_ids"], choice["token_ids"], logprobs))
    return rows


@pytest.fixture
def loop(engine: RealEngine, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """Redis, dispatcher, worker and gateway as `ratchet up` runs them; no trainer."""
    yield from run_loop(engine, short_path, monkeypatch, {}, with_trainer=False)


def run_loop(
    engine: RealEngine,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    *,
    with_trainer: bool,
) -> Iterator[Loop]:
    """Start the loop over `engine`, hand it out, stop it."""
    values = {
        "RATCHET_DATA_DIR": str(directory),
        "RATCHET_GATEWAY_PORT": str(free_port()),
        "RATCHET_UPSTREAM_URL": engine.url,
        "RATCHET_UPSTREAM_BASE_MODEL": BASE,
        "RATCHET_REDIS_TIMEOUT_SECONDS": "5",  # vLLM takes all the CPU there is
        "RATCHET_REWARDS_LABEL_WINDOW_SECONDS": "1",
        **environment,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    lines: list[str] = []
    running = Loop(
        load_settings(),
        lambda name, line: lines.append(f"{name} | {line}"),
        with_trainer=with_trainer,
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()
        sys.stdout.write("\n".join(lines[-80:]))
