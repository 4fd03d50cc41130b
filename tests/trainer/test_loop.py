"""The state machine: killed anywhere it goes on, and every trajectory is learned from once."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.trainer.conftest import LoopMaker
from tests.trainer.fake_engine import FakeEngine
from tests.trainer.records import make_trainable
from trainer.batch.batching import Lack, look, selection_for
from trainer.loop import Loop
from trainer.runs import Phase, Run, all_runs
from trajectories import keys
from trajectories.connection import Redis, RedisError
from trajectories.registry import Heartbeat, Registry, beat
from trajectories.resources import VersionState
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef
from trajectories.store.packing import pack

CRASH_POINTS = (
    "batch_written",
    "run_written",
    "marked_used",
    "training_started",
    "trained",
    "version_allocated",
    "publish_adapter_model.safetensors",
    "publish_manifest",
    "publish_renamed",
    "registered",
    "loaded",
    "probed",
    "promoted",
)


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


def cycle_until(loop: Loop, condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, loop.board.view(0, 1)
        loop.guarded_cycle()
        time.sleep(0.01)


def kill_at(point: str) -> Callable[[str], None]:
    def reached(name: str) -> None:
        if name == point:
            raise Killed(name)

    return reached


def refs_of_all_runs(settings: Settings) -> list[str]:
    return [ref for directory in all_runs(settings.runs_dir) for ref in directory.plan().refs]


def last_run(redis: Redis) -> Run:
    return Run.from_json(redis.lrange(keys.runs("policy"), 0, 0)[0])


def test_enough_rewarded_trajectories_become_a_serving_version(
    make_loop: LoopMaker, store: Store, registry: Registry, engine: FakeEngine, redis: Redis
) -> None:
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: registry.snapshot().current == 1)
        cycle_until(loop, lambda: loop.board.last_run is not None)
        run = last_run(redis)
    entry = registry.snapshot().versions[1]
    assert entry.state is VersionState.CURRENT
    assert entry.model in engine.loaded
    assert entry.run_id == run.run_id
    assert run.phase is Phase.PROMOTED
    assert (run.trajectories, run.version) == (4, 1)
    assert store.count_trainable("policy") == 0


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_kill_anywhere_ends_in_one_promoted_version(
    point: str, make_loop: LoopMaker, store: Store, registry: Registry, redis: Redis
) -> None:
    make_trainable(store, 4)
    loop = make_loop(kill_at(point))
    loop.__enter__()
    with pytest.raises(Killed):
        cycle_until(loop, lambda: False)
    loop._training.stop()  # the kernel does this when the trainer really dies
    loop._pulse.__exit__()
    redis.delete(keys.lease("policy"))
    with make_loop() as again:
        cycle_until(again, lambda: registry.snapshot().current > 0)
        cycle_until(again, lambda: again.board.last_run is not None)
    snapshot = registry.snapshot()
    assert snapshot.current == 1, "no number is burnt"
    assert set(snapshot.versions) == {0, 1}
    refs = refs_of_all_runs(make_loop.settings)
    assert len(refs) == len(set(refs)) == 4
    assert store.count_trainable("policy") == 0
    assert redis.llen(keys.runs("policy")) == 1
    used = [TrajectoryRef.parse(ref) for ref in refs]
    assert [store.used_by("policy", snapshot.versions, ref) for ref in used] == [[1]] * 4
    assert not list(make_loop.settings.adapters_dir.glob(".publishing*"))


def test_redis_away_while_a_round_begins_uses_no_trajectory_twice(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.loop.FIRST_BACKOFF_SECONDS", 0.05)
    failures = [RedisError("away"), RedisError("away")]
    original = Store.mark_used

    def mark_used(self: Store, *arguments: Any) -> None:
        if failures:
            raise failures.pop()
        original(self, *arguments)

    monkeypatch.setattr(Store, "mark_used", mark_used)
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    assert failures == []
    assert len(refs_of_all_runs(make_loop.settings)) == 4
    assert registry.snapshot().current == 1


def test_a_rollback_right_after_a_promotion_stands_when_the_trainer_comes_back(
    make_loop: LoopMaker, store: Store, registry: Registry, redis: Redis
) -> None:
    make_trainable(store, 4)
    loop = make_loop(kill_at("promoted"))
    loop.__enter__()
    with pytest.raises(Killed):
        cycle_until(loop, lambda: False)
    loop._pulse.__exit__()
    redis.delete(keys.lease("policy"))
    registry.promote(0, reason="rolled back")
    with make_loop() as again:
        cycle_until(again, lambda: again.board.last_run is not None)
    assert registry.snapshot().current == 0


def test_an_adapter_that_is_refused_pauses_the_trainer_too(
    make_loop: LoopMaker, store: Store, engine: FakeEngine
) -> None:
    engine.is_serving_base = True
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
        assert loop.board.state == "paused"


def test_a_trajectory_that_cannot_be_read_does_not_stop_a_round(
    make_loop: LoopMaker, store: Store, registry: Registry, redis: Redis
) -> None:
    make_trainable(store, 5)
    redis.hset(keys.transitions_of("default", "t0004"), pack("t0004-0"), b"not a record")
    with make_loop() as loop:
        cycle_until(loop, lambda: registry.snapshot().current == 1)
    assert len(refs_of_all_runs(make_loop.settings)) == 4


def test_a_second_round_starts_from_the_first_ones_version_and_takes_new_rows(
    make_loop: LoopMaker, store: Store, registry: Registry
) -> None:
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: registry.snapshot().current == 1)
        cycle_until(loop, lambda: loop.board.run is None)
        make_trainable(store, 4, start=4)
        cycle_until(loop, lambda: registry.snapshot().current == 2)
    refs = refs_of_all_runs(make_loop.settings)
    assert len(refs) == len(set(refs)) == 8
    second = all_runs(make_loop.settings.runs_dir)[1].plan()
    assert second.parent == 1
    assert second.parent_path == registry.snapshot().versions[1].path


def test_a_failed_training_leaves_the_old_version_serving_and_says_why(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "fail")
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
        assert loop.board.state == "paused", "failed rounds do not burn all trajectories at once"
    run = last_run(redis)
    assert (run.phase, run.reason) == (Phase.FAILED, "training diverged at step 3: loss is nan")
    assert registry.snapshot().current == 0
    assert store.count_trainable("policy") == 0, "its trajectories stay used"


def test_a_training_process_that_dies_is_started_again_over_the_same_rows_then_given_up(
    make_loop: LoopMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "crash")
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    run = last_run(redis)
    starts = (make_loop.settings.runs_dir / run.run_id / "starts").read_text().splitlines()
    assert [line.split()[1] for line in starts] == ["4", "4", "4"]
    assert run.reason == "the training process died 3 times, last with status 1: out of memory"
    left = (make_loop.settings.runs_dir / run.run_id).iterdir()
    assert not [path.name for path in left if path.is_dir()], "nobody goes on from it"


def test_a_poisoned_adapter_is_rejected_before_any_engine_sees_it(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    engine: FakeEngine,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_ROUND", "nan")
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    entry = registry.snapshot().versions[1]
    assert entry.state is VersionState.REJECTED
    assert "NaN" in entry.reason
    assert engine.events == []
    assert entry.path is not None
    assert Path(entry.path).is_dir(), "kept for inspection"
    assert last_run(redis).phase is Phase.REJECTED


def test_an_adapter_that_silently_serves_the_base_is_rejected_and_unloaded(
    make_loop: LoopMaker, store: Store, registry: Registry, engine: FakeEngine
) -> None:
    engine.is_serving_base = True
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    assert registry.snapshot().current == 0
    assert "serves the base model" in registry.snapshot().versions[1].reason
    assert engine.loaded == {}


def test_an_engine_that_is_down_is_waited_for(
    make_loop: LoopMaker,
    store: Store,
    registry: Registry,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.loop.FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("trainer.loop.LONGEST_BACKOFF_SECONDS", 0.05)
    engine.is_down = True
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.run is not None and loop.board.run.model is not None)
        for _ in range(10):
            loop.guarded_cycle()
        assert loop.board.run is not None
        assert loop.board.run.phase is Phase.PUBLISHED
        assert "503" in loop.board.note
        engine.is_down = False
        cycle_until(loop, lambda: registry.snapshot().current == 1)


def test_a_restarted_engine_gets_its_adapters_back(
    make_loop: LoopMaker, store: Store, registry: Registry, engine: FakeEngine
) -> None:
    make_trainable(store, 4)
    with make_loop() as loop:
        cycle_until(loop, lambda: registry.snapshot().current == 1)
        engine.restart()
        cycle_until(loop, lambda: registry.snapshot().versions[1].model in engine.loaded)


def test_a_trigger_starts_a_round_and_is_served_once(
    make_loop: LoopMaker, store: Store, redis: Redis
) -> None:
    make_trainable(store, 2)
    redis.set(
        keys.trigger("policy"), orjson.dumps({"run_id": "run_x", "algo": "sft", "force": True})
    )
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    run = last_run(redis)
    assert (run.run_id, run.algorithm, run.phase) == ("run_x", "sft", Phase.PROMOTED)
    assert redis.get(keys.trigger("policy")) is None
    assert redis.llen(keys.runs("policy")) == 1


def test_a_trigger_with_too_little_to_learn_from_is_refused_in_words(
    make_loop: LoopMaker, store: Store, redis: Redis
) -> None:
    make_trainable(store, 2)
    redis.set(keys.trigger("policy"), orjson.dumps({"run_id": "run_x"}))
    with make_loop() as loop:
        cycle_until(loop, lambda: redis.get(keys.trigger("policy")) is None)
    assert last_run(redis).reason == (
        "too little to learn from: 2 of 4 usable rewarded trajectories (trainer.min_trajectories);"
        " 2 of 4 labels (trainer.min_labels);"
        " 1 of 2 better ones (trainer.min_per_outcome); 1 of 2 worse ones (trainer.min_per_outcome)"
    )
    assert store.count_trainable("policy") == 2, "nothing is used up"


def test_rows_that_an_algorithm_did_not_look_at_are_offered_again(
    make_loop: LoopMaker, store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = make_trainable(store, 4)
    monkeypatch.setenv("FAKE_ROUND", "untried")
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
        assert last_run(redis).reason == "'mine' made no trainer"
        assert [str(ref) for ref in store.trainable("policy", 9)] == names
        assert not redis.zcard(keys.used("policy"))
        loop._paused_until = 0.0
        monkeypatch.setenv("FAKE_ROUND", "ok")
        cycle_until(loop, lambda: last_run(redis).phase is Phase.PROMOTED)
    assert store.count_trainable("policy") == 0


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_what_teaches_nothing_does_not_stand_at_the_head_of_the_queue_for_ever(
    share: float, make_loop: LoopMaker, store: Store, registry: Registry
) -> None:
    changes = {"max_trajectories": 8, "replay_share": share}
    trainer = make_loop.settings.trainer.model_copy(update=changes)
    make_loop.settings = make_loop.settings.model_copy(update={"trainer": trainer})
    make_trainable(store, round(8 * (1 - share)), policy_version=99)
    make_trainable(store, 4, start=8)
    with make_loop() as loop:
        cycle_until(loop, lambda: bool(loop.board.lacking))
        loop._look_at = float("-inf")
        cycle_until(loop, lambda: registry.snapshot().current == 1)
    assert store.count_trainable("policy") == 0


@pytest.mark.parametrize("is_full", [False, True])
def test_what_is_left_over_goes_with_a_round_that_was_full(
    is_full: bool, make_loop: LoopMaker, store: Store
) -> None:
    make_trainable(store, 2)
    selection = selection_for(make_loop.settings, "grpo", 0)
    found = look(store, make_loop.settings, selection)
    batch = replace(found, is_full=is_full, set_aside=("default/a",), left_over=("default/b",))
    taken = make_loop()._phases._used_up(batch, selection)
    assert taken == (("default/a", "default/b") if is_full else ("default/a",))


def test_a_trigger_for_an_algorithm_that_is_not_there_takes_nothing(
    make_loop: LoopMaker, store: Store, redis: Redis
) -> None:
    make_trainable(store, 2)
    asked = {"run_id": "run_x", "algo": ["sft", "magic"], "force": True}
    redis.set(keys.trigger("policy"), orjson.dumps(asked))
    with make_loop() as loop:
        cycle_until(loop, lambda: redis.get(keys.trigger("policy")) is None)
    run = last_run(redis)
    assert (run.algorithm, run.phase) == ("sft+magic", Phase.FAILED)
    assert run.reason.startswith("there is no algorithm 'magic' (installed: ")
    assert store.count_trainable("policy") == 2, "nothing is used up"


def test_a_rollback_loads_the_old_version_again_and_makes_it_current(
    make_loop: LoopMaker, store: Store, registry: Registry, engine: FakeEngine, redis: Redis
) -> None:
    redis.sadd(keys.GATEWAYS, "idle")
    idle = Heartbeat(gateway="idle", revision=1000, in_flight={}, open_trajectories={}, at=0)
    beat(redis, [idle])
    with make_loop() as loop:
        for version in (1, 2, 3):
            make_trainable(store, 4, start=4 * version)
            cycle_until(loop, lambda v=version: registry.snapshot().current == v)
            cycle_until(loop, lambda: loop.board.run is None)
        cycle_until(loop, lambda: registry.snapshot().versions[1].state is VersionState.UNLOADED)
        first = registry.snapshot().versions[1]
        assert first.model not in engine.loaded
        redis.set(keys.trigger("policy"), orjson.dumps({"roll_back": 1}))
        cycle_until(loop, lambda: registry.snapshot().current == 1)
        assert first.model in engine.loaded
        assert redis.get(keys.trigger("policy")) is None


def test_one_round_now_returns_its_run_or_says_what_is_lacking(
    make_loop: LoopMaker, store: Store
) -> None:
    make_trainable(store, 3)
    with make_loop() as loop:
        with pytest.raises(Lack, match="3 of 4 usable rewarded trajectories"):
            loop.run_once(threading.Event())
        make_trainable(store, 1, start=3)
        run = loop.run_once(threading.Event())
    assert run is not None
    assert run.phase is Phase.PROMOTED


def test_the_status_is_published_and_expires(
    make_loop: LoopMaker, store: Store, redis: Redis
) -> None:
    make_trainable(store, 1)
    with make_loop() as loop:
        loop.cycle()
        loop._pulse.publish()
        status = orjson.loads(redis.get(keys.status("policy")) or b"")
        assert 0 < redis.ttl(keys.status("policy")) <= keys.STATUS_TTL_SECONDS
    assert (status["state"], status["trainable"], status["needed"]) == ("collecting", 1, 4)
    assert status["phase_progress"] == 0.25
