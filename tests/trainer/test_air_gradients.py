"""What AIR finds reaches the weights: the same log with and without it, to the gradient."""

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.records import a_selection
from tests.workers.records import WEATHER, call, transition, vote
from trainer.advantages.advantage import advantages
from trainer.batch.samples import Sample, samples_of
from trainer.runs import Plan
from trajectories.model import Trajectory, Transition
from trajectories.settings import RewardSettings, TrainerSettings
from trajectories.store import Scorable
from workers.jobs import Scorer

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.tiny_model import VOCABULARY, save_base
    from trainer.algorithms.grpo import make_grpo_trainer
    from trainer.algorithms.protocol import NothingToLearn
    from trainer.policy import load_policy, logprobs_of, make_optimizer

PAIRS = 8
SOUND, FAULTY = "get_weather", "weather_now"  # the second is not offered


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def log(base: Path) -> list[tuple[Trajectory, bool]]:
    """Pairs of answers to one prompt, a sound call and a faulty one, as they would be recorded."""
    model, _ = load_policy(a_plan(base))
    chance = random.Random(0)
    found = []
    for number in range(PAIRS):
        prompt = tuple(chance.randrange(2, VOCABULARY) for _ in range(4))
        for is_faulty in (False, True):
            name = f"{'faulty' if is_faulty else 'sound'}{number}"
            first = 40 if is_faulty else 20  # the name of the tool, in tokens
            tokens = (first, *(chance.randrange(2, VOCABULARY) for _ in range(3)))
            calling = transition(
                trajectory=name,
                calls=[call(FAULTY if is_faulty else SOUND, '{"city": "Seoul"}')],
                finish_reason="tool_calls",
                tools=[WEATHER],
            )
            found.append((recorded(name, calling, prompt, tokens, model), is_faulty))
    return found


def recorded(
    name: str, calling: Transition, prompt: tuple[int, ...], tokens: tuple[int, ...], model: Any
) -> Trajectory:
    logprobs = tuple(logprobs_of(model, prompt, tokens))
    choice = calling.choices[0].model_copy(update={"token_ids": tokens, "logprobs": logprobs})
    calling = calling.model_copy(update={"prompt_token_ids": prompt, "choices": (choice,)})
    return Trajectory(
        id=name,
        policy="policy",
        started_at=0,
        updated_at=0,
        is_closed=True,
        transitions=(calling,),
    )


def a_plan(base: Path) -> Plan:
    trainer = TrainerSettings(rank=4, alpha=8, batch_size=2 * PAIRS, threads=1, device="cpu")
    return Plan(
        run_id="run_1",
        policy="policy",
        algorithm="grpo",
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=trainer,
        refs=(),
    )


def rows(
    log: list[tuple[Trajectory, bool]], air_weight: float, votes: dict[str, float]
) -> list[Sample]:
    """The log's samples, with the rewards that a worker computes."""
    scorer = Scorer.from_settings(RewardSettings(air_weight=air_weight))
    found = []
    for trajectory, _ in log:
        said = (vote(votes[trajectory.id], trajectory=trajectory.id),) if votes else ()
        rewards, outcome = scorer.compute(Scorable(trajectory, said, 1))
        update = {"rewards": tuple(rewards), "reward": outcome.final}
        found += samples_of(trajectory.model_copy(update=update), a_selection())[0]
    return found


def gradient(base: Path, samples: list[Sample], path: Path) -> tuple[Any, dict[str, Any]]:
    """The model and the gradient of the first step's loss, by the trainer's own code."""
    plan = a_plan(base)
    torch.manual_seed(0)  # of the fresh LoRA matrices
    model, tokenizer = load_policy(plan)
    settings = plan.trainer
    trainer = make_grpo_trainer(
        model,
        tokenizer,
        samples=samples,
        advantages=advantages(samples, shrinkage=4.0, negative_weight=0.25),
        settings=settings,
        output=path,
        optimizer=make_optimizer(model, settings, None),
        callbacks=[],
    )
    (batch,) = trainer.micro_batches(range(len(trainer.rows)))
    model.train()
    trainer._compute_loss(model, batch).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return model, found


def effect_on_faulty_calls(
    model: Any, step: dict[str, Any], log: list[tuple[Trajectory, bool]]
) -> float:
    """How a small step down the gradient moves log p(faulty call) - log p(sound call)."""
    margin: Any = 0.0
    for trajectory, is_faulty in log:
        turn = trajectory.transitions[0]
        tokens = turn.choices[0].token_ids
        ids = torch.tensor([[*turn.prompt_token_ids, *tokens]])
        logits = model(input_ids=ids).logits[0, len(turn.prompt_token_ids) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum()
        margin = margin + (chosen if is_faulty else -chosen)
    margin.backward()
    slope = sum(
        float((step[name] * p.grad).sum())
        for name, p in model.named_parameters()
        if p.grad is not None and name in step
    )
    model.zero_grad()
    return -slope


def mixed_votes(log: list[tuple[Trajectory, bool]]) -> dict[str, float]:
    """Thumbs that say nothing of the fault: both of a pair get the same."""
    return {
        trajectory.id: 1.0 if number // 2 % 2 else -1.0
        for number, (trajectory, _) in enumerate(log)
    }


def test_the_same_votes_with_air_move_the_weights_away_from_the_faulty_calls(
    base: Path, log: list[tuple[Trajectory, bool]], tmp_path: Path
) -> None:
    votes = mixed_votes(log)
    model, without = gradient(base, rows(log, 0.0, votes), tmp_path / "without")
    effect_without = effect_on_faulty_calls(model, without, log)
    model, with_air = gradient(base, rows(log, 1.0, votes), tmp_path / "with")
    effect_with = effect_on_faulty_calls(model, with_air, log)
    assert any(not torch.allclose(without[name], with_air[name]) for name in without)
    assert effect_with < 0
    assert effect_with < effect_without


def test_where_votes_are_all_alike_only_air_has_something_to_teach(
    base: Path, log: list[tuple[Trajectory, bool]], tmp_path: Path
) -> None:
    votes = {trajectory.id: 1.0 for trajectory, _ in log}
    with pytest.raises(NothingToLearn, match="every advantage is zero"):
        gradient(base, rows(log, 0.0, votes), tmp_path / "without")
    model, with_air = gradient(base, rows(log, 1.0, votes), tmp_path / "with")
    assert effect_on_faulty_calls(model, with_air, log) < 0


def test_where_nobody_votes_the_faulty_calls_are_all_that_is_learned_from(
    base: Path, log: list[tuple[Trajectory, bool]], tmp_path: Path
) -> None:
    assert rows(log, 0.0, {}) == [], "silence is no reward"
    samples = rows(log, 1.0, {})
    assert {sample.trajectory for sample in samples} == {
        f"default/{trajectory.id}" for trajectory, is_faulty in log if is_faulty
    }
    model, with_air = gradient(base, samples, tmp_path / "with")
    assert effect_on_faulty_calls(model, with_air, log) < 0
