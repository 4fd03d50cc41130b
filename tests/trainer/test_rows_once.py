"""No row twice in a round, and but for what is replayed in no two rounds: killed anywhere."""

import random
from functools import partial

import pytest

from tests.trainer.conftest import LoopMaker
from tests.trainer.records import make_trainable
from tests.trainer.test_loop import CRASH_POINTS, Killed, cycle_until, kill_at
from trainer.loop import Loop
from trainer.runs import all_runs
from trajectories import keys
from trajectories.connection import Redis
from trajectories.registry import Registry
from trajectories.store import Store


def has_learned(loop: Loop, registry: Registry, before: int) -> bool:
    return registry.snapshot().current > before and loop.board.run is None


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_used_once_however_often_a_trainer_is_killed(
    seed: int, make_loop: LoopMaker, store: Store, registry: Registry, redis: Redis
) -> None:
    dice = random.Random(seed)
    trainer = make_loop.settings.trainer.model_copy(update={"replay_share": 0.4})
    make_loop.settings = make_loop.settings.model_copy(update={"trainer": trainer})
    made = 0
    for point in [*dice.sample(CRASH_POINTS, 4), "nowhere"]:
        make_trainable(store, 6, start=made)
        made += 6

        loop = make_loop(kill_at(point))
        loop.__enter__()
        try:
            cycle_until(loop, partial(has_learned, loop, registry, registry.snapshot().current))
        except Killed:
            loop._training.stop()  # the kernel does this when the trainer really dies
            loop._pulse.__exit__()
            redis.delete(keys.lease("policy"))
        else:
            loop.__exit__()
    runs = all_runs(make_loop.settings.runs_dir)
    fresh = [ref for run in runs for ref in run.plan().refs]
    assert len(fresh) == len(set(fresh)) <= made
    used: set[str] = set()
    for run in runs:
        plan, rows = run.plan(), list(run.samples())
        assert len({row.id for row in rows}) == len(rows), "a row is there twice"
        assert {row.trajectory for row in rows if row.is_replayed} == set(plan.replayed)
        assert not set(plan.replayed) & set(plan.refs)
        assert set(plan.replayed) <= used, "only what a version was trained on is replayed"
        used |= set(plan.refs)
    assert any(run.plan().replayed for run in runs)
    assert store.count_used("policy") >= len(fresh)
