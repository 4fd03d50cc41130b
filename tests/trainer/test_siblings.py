"""From the store to a round: siblings that were asked for are rows, and the plan says how many."""

import pytest
from rich.console import Console

from tests.trainer.conftest import LoopMaker
from tests.trainer.records import a_transition, make_trainable
from tests.trainer.test_loop import cycle_until
from trainer.advantages.advantage import advantages_of
from trainer.batch.batching import look, selection_for
from trainer.runs import all_runs
from trainer.tables import whole
from trajectories.connection import Redis
from trajectories.model import Reward
from trajectories.rollouts import Rollout
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef

ASKED = {"messages": [{"role": "user", "content": "hello?"}]}


def roll_out(store: Store, of: str, number: int, value: float) -> str:
    """A sibling as the gateway, the dispatcher and a judge leave it."""
    ref = TrajectoryRef("default", Rollout("default", f"{of}-0", number).trajectory_id)
    call = a_transition(ref.id, rollout=f"{of}-0", session_source="rollout", request=ASKED)
    store.add_transition(call)
    store.close(ref)
    found = store.scorable(ref)
    assert found is not None
    reward = Reward(
        id=f"r-{ref.id}", trajectory_id=ref.id, name="q", source="feedback:judge:q", value=value
    )
    assert store.put_rewards(
        ref, rewards=[reward], final=value, is_labelled=True, revision=found.revision
    )
    return str(ref)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The judge is the house's own."""
    rewards = settings.rewards.model_copy(update={"uncapped_sources": ("q",)})
    return settings.model_copy(update={"rewards": rewards})


def with_siblings(store: Store) -> None:
    make_trainable(store, 4, request=ASKED)
    for number in range(3):
        roll_out(store, "t0001", number, [-1.0, 0.0, 1.0][number])


def test_the_group_of_a_recorded_answer_is_it_and_its_siblings(
    redis: Redis, settings: Settings, store: Store
) -> None:
    make_trainable(store, 1, start=1, request=ASKED)
    make_trainable(store, 1, start=2, request={"messages": [{"role": "user", "content": "bye"}]})
    for number in range(3):
        roll_out(store, "t0001", number, [-1.0, 0.0, 1.0][number])
    trainer = settings.trainer.model_copy(
        update={"baseline": "group", "negative_weight": 1.0, "rollout_share": 0.9}
    )
    settings = settings.model_copy(update={"trainer": trainer})
    batch = look(store, settings, selection_for(settings, "grpo", 0))
    samples = list(batch.samples)
    assert batch.rollouts == 3
    found = advantages_of(samples, trainer)
    group = [
        value for sample, value in zip(samples, found, strict=True) if "t0002" not in sample.id
    ]
    assert len(group) == 4
    assert abs(sum(group)) < 1e-9
    assert max(map(abs, group)) > 0


def test_a_round_says_how_many_of_its_rows_no_user_got(
    make_loop: LoopMaker, store: Store, settings: Settings
) -> None:
    with_siblings(store)
    batch = look(store, settings, selection_for(settings, "grpo", 0))
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(whole(batch, []))
    assert "of these siblings, which no user got" in capture.get()
    with make_loop() as loop:
        cycle_until(loop, lambda: loop.board.last_run is not None)
    (run,) = all_runs(settings.runs_dir)
    plan = run.plan()
    assert plan.rollouts == 3
    assert len(plan.refs) == 7
