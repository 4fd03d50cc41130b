"""kill -9 of a real trainer process at a phase that was seen, and a clean stop on SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.trainer.fake_engine import FakeEngine
from tests.trainer.records import make_trainable
from trainer.runs import Phase, Run, all_runs
from trajectories import keys
from trajectories.connection import Redis
from trajectories.registry import Registry
from trajectories.settings import Settings
from trajectories.store import Store

ROOT = Path(__file__).parents[2]


class TrainerProcess:
    """Starts and kills trainers one after another."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RATCHET_DATA_DIR": str(settings.data_dir),
            "RATCHET_REDIS_URL": settings.redis.url,
            "RATCHET_UPSTREAM_URL": settings.upstream.url,
            "RATCHET_TRAINER_BASE_MODEL_PATH": str(settings.trainer.base_model_path),
            "RATCHET_TRAINER_MIN_TRAJECTORIES": "4",
            "RATCHET_TRAINER_MIN_PER_OUTCOME": "2",
            "RATCHET_TRAINER_RANK": "4",
            "RATCHET_TRAINER_TARGET_MODULES": '["q_proj"]',
        }
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, how: str = "ok") -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("trainer_process.py"))],
                env={**self.environment, "FAKE_ROUND": how},
                stderr=log,
            )

    def send(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)


@pytest.fixture
def trainer(settings: Settings, tmp_path: Path) -> Iterator[TrainerProcess]:
    process = TrainerProcess(settings, tmp_path / "trainer.log")
    yield process
    if process.process is not None and process.process.poll() is None:
        process.process.kill()
        process.process.wait()


def phase_of(settings: Settings) -> Phase | None:
    runs = all_runs(settings.runs_dir)
    return runs[-1].read().phase if runs else None


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_killed_while_training_no_orphan_trains_on_and_the_same_rows_are_trained(
    trainer: TrainerProcess, settings: Settings, store: Store, registry: Registry, redis: Redis
) -> None:
    make_trainable(store, 4)
    trainer.start("slow")
    starts = settings.runs_dir
    trainer.wait(lambda: any(starts.glob("*/starts")))
    pid = int(next(starts.glob("*/starts")).read_text().split()[0])

    def is_training() -> bool:
        status = orjson.loads(redis.get(keys.status("policy")) or b"{}")
        return status.get("state") == "training" and status["phase_progress"] > 0

    trainer.wait(is_training)
    assert trainer.send(signal.SIGKILL) == -signal.SIGKILL
    trainer.process = None
    trainer.wait(lambda: not is_alive(pid), seconds=5)
    make_trainable(store, 4, start=4)  # new traffic must not get into the old run

    trainer.start()
    trainer.wait(lambda: registry.snapshot().current == 2)
    trainer.wait(lambda: redis.llen(keys.runs("policy")) == 2)
    rows = [ref for run in all_runs(settings.runs_dir) for ref in run.plan().refs]
    assert len(rows) == len(set(rows)) == 8
    assert [len(run.plan().refs) for run in all_runs(settings.runs_dir)] == [4, 4]


def test_killed_at_a_load_and_again_at_the_next_it_ends_promoted_once(
    trainer: TrainerProcess,
    settings: Settings,
    store: Store,
    registry: Registry,
    engine: FakeEngine,
    redis: Redis,
) -> None:
    make_trainable(store, 4)
    engine.is_down = True  # holds the run in this phase
    for _ in range(2):
        trainer.start()
        trainer.wait(lambda: phase_of(settings) is Phase.PUBLISHED)
        time.sleep(0.2)
        trainer.send(signal.SIGKILL)
    engine.is_down = False
    trainer.start()
    trainer.wait(lambda: redis.llen(keys.runs("policy")) == 1)
    run = Run.from_json(redis.lrange(keys.runs("policy"), 0, 0)[0])
    assert (run.phase, run.version, run.attempts) == (Phase.PROMOTED, 1, 1)
    assert set(registry.snapshot().versions) == {0, 1}


def test_sigterm_stops_the_training_cleanly_and_the_next_start_goes_on(
    trainer: TrainerProcess, settings: Settings, store: Store, registry: Registry, redis: Redis
) -> None:
    make_trainable(store, 4)
    trainer.start("slow")
    trainer.wait(lambda: any(settings.runs_dir.glob("*/starts")))
    pid = int(next(settings.runs_dir.glob("*/starts")).read_text().split()[0])
    assert trainer.send(signal.SIGTERM) == 0
    assert not is_alive(pid)
    assert redis.get(keys.lease("policy")) is None
    assert phase_of(settings) is Phase.COLLECTED
    trainer.start()
    trainer.wait(lambda: registry.snapshot().current == 1)
