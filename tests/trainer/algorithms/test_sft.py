"""SFT: which tokens carry loss, and that merged calls teach what separate ones do."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.records import a_sample
from trainer.batch.merging import merge
from trainer.batch.samples import Sample

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.rounds import a_plan
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.sft import make_sft_trainer, row_of
    from trainer.policy import load_policy, make_optimizer


def session(name: str, calls: int) -> list[Sample]:
    """Calls that each go on from the one before: a tool's word, and an answer with its end."""
    samples, said = [], (5, 6)
    for call in range(calls):
        answer = (7 + call, 20 + call, 1)
        sample = a_sample(name, 1.0, id=f"{name}-{call}/0", step=call, token_ids=answer)
        samples.append(sample.model_copy(update={"prompt_token_ids": said}))
        said = (*said, *answer, 40 + call)
    return samples


def test_rows_carry_loss_on_whole_answers_and_nothing_else() -> None:
    samples = session("t", 2)
    (row,) = merge(samples)
    assert row_of(row, samples) == {
        "input_ids": [5, 6, 7, 20, 1, 40, 8, 21, 1],
        "labels": [-100, -100, 7, 20, 1, -100, 8, 21, 1],
    }


def test_merged_calls_have_the_gradient_of_separate_ones_and_count_as_many(tmp_path: Path) -> None:
    plan = a_plan(save_base(tmp_path / "base"), "sft", batch_size=6)
    together = session("a", 3) + session("b", 3)
    apart = [s.model_copy(update={"trajectory": s.id}) for s in together]
    gradients = []
    for number, samples in enumerate((together, apart)):
        torch.manual_seed(0)
        model, tokenizer = load_policy(plan)
        model.double()
        trainer: Any = make_sft_trainer(
            model,
            tokenizer,
            samples=samples,
            settings=plan.trainer,
            output=tmp_path / str(number),
            optimizer=make_optimizer(model, plan.trainer, None),
            callbacks=[],
        )
        rows = len(trainer.train_dataset) - 1  # and the blank one
        assert rows == (2, 6)[number]
        step = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps
        assert step == rows, "a step holds six answers, however many rows they are in"
        batch = trainer.data_collator([trainer.train_dataset[at] for at in range(rows)])
        trainer.compute_loss(model, batch).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-7)
