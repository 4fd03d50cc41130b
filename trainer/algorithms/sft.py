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

from trainer.algorithms.grpo import checkpoint_steps, micro_batch, shared_arguments
from trainer.batch.samples import Sample
from trainer.policy import TrainingError, constant_schedule
from trajectories.settings import TrainerSettings

IGNORED = -100  # the label of a token without loss


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
        raise TrainingError("no trajectory is rewarded above trainer.sft_threshold")
    rows = [row_of(sample) for sample in samples]
    batch = min(settings.batch_size, len(rows))
    micro = micro_batch(batch, max(len(row["input_ids"]) for row in rows))
    config = SFTConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        save_steps=checkpoint_steps(len(rows), batch, settings.epochs),
        max_length=None,
        packing=False,
    )
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
