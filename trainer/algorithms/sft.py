"""SFT on successes: token-exact, from logged ids, with TRL's SFTTrainer.

The first trainer, and the bar that GRPO has to beat. Rows are the logged
prompt and answer ids; only answer tokens (the end token among them) carry
loss. Nothing is rendered, tokenised or cut: `max_length` is None, because
samples.py already left out what is too long.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn
from trainer.batch.order import RowOrder, checkpoint_steps, shape_for
from trainer.batch.samples import Sample
from trainer.policy import constant_schedule
from trajectories.settings import TrainerSettings

IGNORED = -100  # the label of a token without loss
BLANK = {"input_ids": [0], "labels": [IGNORED]}


class LoggedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Every row once an epoch, in the order of `order`."""

    order: RowOrder

    def _get_train_sampler(self, dataset: Any = None) -> RowOrder:
        return self.order


def row_of(sample: Sample) -> dict[str, list[int]]:
    """One row: prompt and answer, loss on the answer only."""
    return {
        "input_ids": [*sample.prompt_token_ids, *sample.token_ids],
        "labels": [IGNORED] * len(sample.prompt_token_ids) + list(sample.token_ids),
    }


def make_sft_trainer(
    model: Any,
    tokenizer: Any,
    *,
    samples: Sequence[Sample],
    settings: TrainerSettings,
    output: Path,
    optimizer: Any,
    callbacks: list[Any],
) -> Any:
    """The trainer of one round over samples that are all successes."""
    if not samples:
        raise NothingToLearn("no trajectory is rewarded above trainer.sft_threshold")
    rows = [row_of(sample) for sample in samples]
    shape = shape_for(
        len(rows),
        batch_size=settings.batch_size,
        longest=max(len(row["input_ids"]) for row in rows),
        processes=ranks.count(),
    )
    config = SFTConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        save_steps=checkpoint_steps(len(rows), shape, settings.epochs),
        max_length=None,
        packing=False,
    )
    trainer = LoggedSFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([*rows, BLANK]),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
    trainer.order = RowOrder(len(rows), shape, chunk=shape.micro, seed=settings.seed)
    return trainer
