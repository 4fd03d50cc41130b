"""Rounds of whole models through the loop: delivered, refused, rolled back, changed back."""

from pathlib import Path

import orjson
import pytest

from tests.trainer.conftest import LoopMaker
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.records import make_trainable
from trainer.loop import Loop
from trainer.runs import Phase, all_runs
from trajectories import keys
from trajectories.connection import Redis
from trajectories.errors import SettingsError
from trajectories.registry import Registry
from trajectories.resources import Kind, VersionState
from trajectories.settings import Settings, TrainerSettings
from trajectories.store import Store


@pytest.fixture
def settings(settings: Settings) -> Settings:
    fields = {**settings.trainer.model_dump(), "weights": "full"}
    return settings.model_copy(update={"trainer": TrainerSettings(**fields)})


def a_round(loop: Loop, store: Store, start: int) -> None:
    make_trainable(store, 4, start=start)
    ended = loop.board.last_run
    for _ in range(400):
        loop.guarded_cycle()
        if loop.board.last_run is not ended:
            return
    raise AssertionError(loop.board.note)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.delivery.renewal.SILENCE_SECONDS", 0.0)


def test_rounds_go_on_from_each_other_and_a_rollback_reloads_the_former(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    engine: FakeEngine,
    settings: Settings,
    redis: Redis,
) -> None:
    with make_loop() as loop:
        a_round(loop, store, 0)
        a_round(loop, store, 4)
        snapshot = registry.snapshot()
        assert snapshot.current == 2
        current = snapshot.versions[2]
        assert (current.kind, current.parent) == (Kind.FULL, 1)
        assert engine.weights == current.path
        assert snapshot.weights[engine.url].version == 2
        runs = [directory.read() for directory in all_runs(settings.runs_dir)]
        assert [run.phase for run in runs] == [Phase.PROMOTED, Phase.PROMOTED]
        plan = all_runs(settings.runs_dir)[1].plan()
        assert plan.parent_path == snapshot.versions[1].path
        assert plan.optimizer_path is not None
        trained = Path(plan.optimizer_path).with_name("model.safetensors")
        assert trained.samefile(Path(plan.parent_path or "") / trained.name), "not held twice"
        redis.set(keys.trigger("policy"), orjson.dumps({"roll_back": 0}))
        loop.cycle()
        assert registry.snapshot().current == 0
        assert engine.weights == str(Path(settings.trainer.base_model_path or ""))
        assert engine.weights_name == "default"


def test_weights_that_are_no_numbers_are_refused_before_anything_is_paused(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "nan")
    with make_loop() as loop:
        a_round(loop, store, 0)
    entry = registry.snapshot().versions[1]
    assert entry.state is VersionState.REJECTED
    assert "NaN" in entry.reason
    assert [name for name, _ in engine.events] == []


def test_what_serves_decides_which_kind_may_follow(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    settings: Settings,
) -> None:
    whole = make_loop.settings
    with make_loop() as loop:
        a_round(loop, store, 0)
    fields = {**settings.trainer.model_dump(), "weights": "lora"}
    make_loop.settings = settings.model_copy(update={"trainer": TrainerSettings(**fields)})
    with pytest.raises(SettingsError, match="whole model: `ratchet rollback --to 0`"), make_loop():
        pass
    registry.promote(0)
    with pytest.raises(SettingsError, match="may have a whole model's weights"), make_loop():
        pass
    adapters, make_loop.settings = make_loop.settings, whole
    with make_loop() as loop:
        loop.cycle()
    make_loop.settings = adapters
    with make_loop():
        assert registry.snapshot().weights == {}, "gateways route by adapters' names again"
