"""A settings object, a base model of a few bytes, and a trainer in miniature."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.trainer.fake_engine import FakeEngine
from trainer.delivery.publish import Reached
from trainer.loop import Loop
from trainer.phases import find_base
from trainer.training import Training
from trajectories.connection import Redis
from trajectories.registry import Registry
from trajectories.settings import RedisSettings, Settings, TrainerSettings, UpstreamSettings
from trajectories.store import Store

FAKE_ROUND = (sys.executable, str(Path(__file__).with_name("fake_round.py")))


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as fake:
        yield fake


@pytest.fixture
def settings(tmp_path: Path, redis_settings: RedisSettings, engine: FakeEngine) -> Settings:
    base = tmp_path / "base"
    base.mkdir()
    save_file({"w": np.ones(4, np.float32)}, base / "model.safetensors")
    return Settings(
        data_dir=tmp_path / "data",
        redis=redis_settings,
        upstream=UpstreamSettings(url=engine.url),
        trainer=TrainerSettings(
            base_model_path=str(base),
            min_trajectories=4,
            min_per_outcome=2,
            rank=4,
            target_modules=("q_proj",),
            drain_seconds=60,
        ),
    )


@pytest.fixture
def store(redis: Redis) -> Store:
    return Store(redis)


@pytest.fixture
def registry(redis: Redis, settings: Settings) -> Registry:
    return Registry(redis, settings.policy, settings.upstream.base_model)


class LoopMaker:
    """Makes trainers whose rounds are fake, over the test's Redis and engine."""

    def __init__(self, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.redis = redis
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def __call__(self, reached: Reached = lambda _: None) -> Loop:
        return Loop(
            self.settings,
            redis=self.redis,
            base=find_base(self.settings),
            training=Training(FAKE_ROUND),
            reached=reached,
        )


@pytest.fixture
def make_loop(settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> LoopMaker:
    monkeypatch.setattr("trainer.loop.TICK_SECONDS", 0.02)
    monkeypatch.setattr("trainer.loop.RECONCILE_SECONDS", 0.0)
    return LoopMaker(settings, redis, monkeypatch)
