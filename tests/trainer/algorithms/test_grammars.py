"""GRPO on answers under a grammar: tokens that it chose are context, the rest as ever."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from trainer.batch.samples import Sample

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.rounds import a_plan, a_run, said_by
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.grpo import make_grpo_trainer
    from trainer.policy import TrainingError, gaps, load_policy, make_optimizer
    from trainer.round import check_gap, train

TAKEN = 0.7  # nats that the grammar adds to what is recorded, at every other token


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


def under_grammar(sample: Sample) -> Sample:
    """The same answer as an engine would have recorded it: its second token and each other held."""
    recorded = [value + TAKEN * (at % 2) for at, value in enumerate(sample.logprobs)]
    changes = {"logprobs": tuple(recorded), "has_ratio": False, "is_constrained": True}
    return sample.model_copy(update=changes)


def in_single_tokens(sample: Sample) -> list[Sample]:
    """The free tokens of an answer, each as an answer of its own."""
    found = []
    for at in range(0, len(sample.token_ids), 2):
        changes: dict[str, Any] = {
            "prompt_token_ids": sample.prompt_token_ids + sample.token_ids[:at],
            "token_ids": sample.token_ids[at : at + 1],
            "logprobs": sample.logprobs[at : at + 1],
        }
        found.append(sample.model_copy(update=changes))
    return found


def a_trainer(base: Path, samples: list[Sample], path: Path, **changes: Any) -> Any:
    plan = a_plan(base, merge_calls=False, **changes)
    torch.manual_seed(0)
    model, tokenizer = load_policy(plan)
    return make_grpo_trainer(
        model,
        tokenizer,
        samples=samples,
        advantages=[sample.reward for sample in samples],
        settings=plan.trainer,
        output=path,
        optimizer=make_optimizer(model, plan.trainer, None),
        callbacks=[],
    )


def gradient(trainer: Any) -> Any:
    trainer.model.train()
    for batch in trainer.micro_batches(range(len(trainer.rows))):
        trainer._compute_loss(trainer.model, batch).backward()
    parts = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat(parts)


@pytest.mark.parametrize("changes", [{}, {"decoupled": True}])
def test_the_gradient_is_that_of_the_free_tokens_alone(
    base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    samples = said_by(base, 6)
    held = a_trainer(base, list(map(under_grammar, samples)), tmp_path / "held", **changes)
    alone = [token for sample in samples for token in in_single_tokens(sample)]
    free = a_trainer(base, alone, tmp_path / "free", **changes)
    one, other = gradient(held), gradient(free)
    assert float((one - other).norm() / other.norm()) < 1e-5
    total = sum(len(sample.token_ids) for sample in samples)
    assert held.free_share == pytest.approx(len(alone) / total)


def test_a_round_trains_on_them_and_says_how_much_was_free(base: Path, tmp_path: Path) -> None:
    samples = [under_grammar(sample) for sample in said_by(base)]
    plan = a_plan(base, epochs=1)
    metrics = train(a_run(tmp_path / "run", plan, samples))
    assert metrics["steps"] > 0
    assert 0.3 < metrics["free_tokens_share"] < 0.8
    assert metrics["behaviour_gap"] < 1e-3, "what a grammar adds is no gap"


def test_an_answer_without_a_free_token_teaches_nothing(base: Path, tmp_path: Path) -> None:
    samples = said_by(base, 6)
    lost = [
        sample.model_copy(
            update={
                "logprobs": tuple(value + TAKEN for value in sample.logprobs),
                "has_ratio": False,
                "is_constrained": True,
            }
        )
        for sample in samples[3:]
    ]
    both = a_trainer(base, samples[:3] + lost, tmp_path / "both", loss="grpo")
    free = a_trainer(base, samples[:3], tmp_path / "free", loss="grpo")
    assert float((gradient(both) - gradient(free)).norm()) < 1e-6


def test_another_models_log_is_noticed_under_a_grammar_too(base: Path) -> None:
    model, _ = load_policy(a_plan(base))
    samples = [under_grammar(sample) for sample in said_by(base, 4)]
    assert check_gap(gaps(model, samples), "float32", 0.0) < 1e-3
    strange = [
        s.model_copy(update={"logprobs": tuple(value - 1.0 for value in s.logprobs)})
        for s in samples
    ]
    with pytest.raises(TrainingError):
        check_gap(gaps(model, strange), "float32", 0.0)
