"""SFT on successes: token-exact, from logged ids, with TRL's SFTTrainer.

The first trainer, and the bar that GRPO has to beat. Rows are logged ids, the
calls of a trajectory that go on from each other in one (batch/merging.py);
only answer tokens (the end token among them) carry loss. Nothing is rendered,
tokenised or cut: `max_length` is None, because samples.py already left out
or cut what is too long.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn
from trainer.algorithms.reading import PLACEHOLDER, ReadRows
from trainer.batch.merging import Row, merge, tokens_of
from trainer.batch.order import RowOrder, checkpoint_steps, shape_for
from trainer.batch.samples import Sample
from trainer.policy import constant_schedule
from trajectories.settings import TrainerSettings

IGNORED = -100  # the label of a token without loss
BLANK = {"input_ids": [0], "labels": [IGNORED]}


class LoggedSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """Every row once an epoch, in the order of `order`."""

    order: RowOrder

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def _get_train_sampler(self, dataset: Any = None) -> RowOrder:
        return self.order


def row_of(row: Row, samples: Sequence[Sample]) -> dict[str, list[int]]:
    """One row: what was said in it, with loss on the answers only."""
    tokens = list(tokens_of(row, samples))
    labels = [IGNORED] * len(tokens)
    for span in row.spans:
        labels[span.start : span.stop] = tokens[span.start : span.stop]
    return {"input_ids": tokens, "labels": labels}


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
    rows = merge(samples, is_on=settings.merge_calls)
    shape = shape_for(
        len(rows),
        batch_size=max(1, round(settings.batch_size * len(rows) / len(samples))),
        longest=max(row.length for row in rows),
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
        train_dataset=PLACEHOLDER,
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
    trainer.train_dataset = ReadRows(
        len(rows) + 1, lambda at: row_of(rows[at], samples) if at < len(rows) else BLANK
    )
    trainer.order = RowOrder(len(rows), shape, chunk=shape.micro, seed=settings.seed)
    return trainer
