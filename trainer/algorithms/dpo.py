"""DPO from the log: of two answers to one prompt the better one up, the worse one down.

Direct preference optimisation (arXiv 2305.18290) on pairs of the log
(trainer/batch/pairs.py). The rejected side is always logged ids; the chosen
one, too, unless somebody wrote down what the answer should have been. A
correction is text that nobody sampled: it is rendered and tokenised here
(rendering.py), which is sound because no ratio to a sampler is taken, only
one to the base model, that reads it just so.
"""

import logging
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.algorithms.reference import anchor_to_base
from trainer.algorithms.rendering import Rendering
from trainer.batch.order import checkpoint_steps, shape_for
from trainer.batch.pairs import answer_of, pairs_among
from trainer.batch.samples import Sample
from trainer.policy import constant_schedule

logger = logging.getLogger(__name__)


class LoggedDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, chosen_ids, rejected_ids}."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def rows_of(samples: Sequence[Sample], rendering: Rendering) -> list[dict[str, list[int]]]:
    """One row for each pair; a correction that cannot be rendered is left out, and logged."""
    rows = []
    for pair in pairs_among(map(answer_of, samples)):
        worse = samples[pair.worse]
        if pair.better is None:
            chosen = rendering.tokens_of(worse)
            if chosen is None:
                logger.warning("a correction of %s was left out: %s", worse.id, rendering.reason)
                continue
        else:
            chosen = samples[pair.better].token_ids
        if chosen != worse.token_ids:
            rows.append(
                {
                    "prompt_ids": list(worse.prompt_token_ids),
                    "chosen_ids": list(chosen),
                    "rejected_ids": list(worse.token_ids),
                }
            )
    return rows


def make_dpo_trainer(round_: Round) -> LoggedDPOTrainer:
    """The trainer of one round. Raises NothingToLearn where there is no pair."""
    settings = round_.settings
    rows = rows_of(round_.samples, Rendering(round_.tokenizer, round_.model, settings.max_length))
    if not rows:
        raise NothingToLearn("there is no pair of answers to one prompt, and no correction")
    longest = max(
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in rows
    )
    shape = shape_for(
        len(rows),
        batch_size=settings.batch_size,
        longest=2 * longest,
        processes=ranks.count(),
    )
    config = DPOConfig(
        **shared_arguments(settings, round_.output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        save_steps=checkpoint_steps(len(rows), shape, settings.epochs),
        beta=settings.preference_beta,
        max_length=None,
    )
    trainer = LoggedDPOTrainer(
        model=round_.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=round_.tokenizer,
        callbacks=list(round_.callbacks),
        optimizers=(round_.optimizer, constant_schedule(round_.optimizer)),
    )
    anchor_to_base(trainer)
    return trainer
