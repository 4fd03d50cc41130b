"""KTO from logged answers: whose ids, what is good, what it is held against."""

import inspect
import warnings
from pathlib import Path

import pytest

from tests.trainer.records import a_sample
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.batch.samples import Sample
from trainer.runs import Plan

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import KTOTrainer

    from tests.trainer.rounds import a_plan, a_run, mean_logprob, said_by
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.judged import answers_of, foreign, row_of, weights
    from trainer.algorithms.kto import make_kto_trainer
    from trainer.policy import load_policy, logprobs_of, make_optimizer
    from trainer.round import train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return said_by(base)


def a_round(plan: Plan, samples: list[Sample], output: Path) -> Round:
    model, tokenizer = load_policy(plan)
    optimizer = make_optimizer(model, plan.trainer, None)
    return Round(plan, model, tokenizer, samples, output, optimizer, ())


def test_trl_still_has_the_method_that_is_overridden() -> None:
    found = list(inspect.signature(KTOTrainer._prepare_dataset).parameters)
    assert found == ["self", "dataset", "processing_class", "args", "dataset_name"]


def test_rows_are_the_logged_ids_and_a_reward_on_the_threshold_says_nothing() -> None:
    rewards = (0.5, 0.2, -1.0)
    samples = [a_sample(f"t{r}", r, token_ids=(7 + n, 1)) for n, r in enumerate(rewards)]
    good, bad = sorted(answers_of(samples, 0.2, seed=0), key=lambda answer: answer.sample)
    assert (good.sample, good.is_good, bad.sample, bad.is_good) == (0, True, 2, False)
    assert row_of(good, bad, samples) == {
        "prompt_ids": [1, 2],
        "completion_ids": [7, 1],
        "label": True,
        "KL_completion_ids": [9, 1],
    }
    many = [a_sample(f"t{n}", 1.0, token_ids=(n,)) for n in range(9)]
    one, same, other = (answers_of(many, 0.0, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_each_row_meets_an_answer_of_its_own_pass() -> None:
    assert foreign(7, 3) == [2, 0, 1, 5, 3, 4, 5], "none is left out, and none meets itself"
    assert foreign(5, 3) == [2, 0, 1, 4, 3]


def test_the_rarer_kind_weighs_more_but_not_without_end() -> None:
    assert weights(30, 10) == (1.0, 3.0)
    assert weights(1, 100) == (4.0, 1.0)


def test_the_loss_is_that_of_the_paper_over_the_logged_tokens(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Equation 7 with the base as the reference, in float64, on a policy that has moved."""
    plan = a_plan(base, "kto", batch_size=16, preference_beta=0.5)
    round_ = a_round(plan, samples, tmp_path)
    for name, parameter in round_.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trainer = make_kto_trainer(round_)
    assert "ref" not in round_.model.peft_config
    assert any(parameter.requires_grad for parameter in round_.model.parameters())
    rows = [trainer.train_dataset[at] for at in range(16)]
    round_.model.train()
    loss = trainer.compute_loss(round_.model, trainer.data_collator(rows))

    def log_ratio(prompt: list[int], answer: list[int]) -> float:
        ours = sum(logprobs_of(round_.model, prompt, answer))
        with round_.model.disable_adapter():
            return ours - sum(logprobs_of(round_.model, prompt, answer))

    drifts = [log_ratio(row["prompt_ids"], row["KL_completion_ids"]) for row in rows]
    drift = torch.tensor(max(0.0, sum(drifts) / 16), dtype=torch.float64)
    losses = []
    for row in rows:
        ratio = log_ratio(row["prompt_ids"], row["completion_ids"])
        margin = ratio - drift if row["label"] else drift - ratio
        losses.append(1 - torch.sigmoid(0.5 * margin))
    assert float(loss) == pytest.approx(float(sum(losses) / 16), abs=1e-5)


def test_a_round_raises_good_answers_and_lowers_bad_ones(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    plan = a_plan(base, "kto", epochs=4)
    old = [s.model_copy(update={"version": -9, "has_ratio": False}) for s in samples]
    directory = a_run(tmp_path / "run", plan, old)
    metrics = train(directory)
    assert metrics["margin"] > 0
    assert metrics["steps"] == 8
    assert {path.name for path in directory.trained.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "probe.json",
        "optimizer.pt",
    }
    before, _ = load_policy(plan)
    after, _ = load_policy(plan.model_copy(update={"parent_path": str(directory.trained)}))
    good, bad = samples[1::2], samples[::2]
    assert mean_logprob(after, good) > mean_logprob(before, good) + 0.05
    assert mean_logprob(after, bad) < mean_logprob(before, bad) - 0.05


def test_all_good_teaches_nothing(base: Path, samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(NothingToLearn, match=r"above trainer\.sft_threshold and below it"):
        train(a_run(tmp_path / "run", a_plan(base, "kto"), samples[1::2]))
