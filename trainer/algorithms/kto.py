"""KTO from the log: answers that were good and answers that were bad, without pairs or ratios.

Kahneman-Tversky optimisation (arXiv 2402.01306, equation 7): each answer is
held against what the base model makes of it, good ones above the average
divergence from it and bad ones below. Greedy, constrained and old answers
teach as well as others, since nothing is divided by who sampled them.

1. Rows are the logged ids: TRL's own preparation, which renders and tokenises
   texts, is passed over.
2. The reference is the base model and not the adapter before, from which TRL
   would start to drift anew each round.
3. Where good and bad ones are not equally many, the rarer kind weighs more
   (equation 8), up to MOST_WEIGHT.
"""

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.algorithms.reference import anchor_to_base
from trainer.batch.order import checkpoint_steps, shape_for
from trainer.batch.samples import Sample
from trainer.policy import constant_schedule

MOST_WEIGHT = 4.0
LEAST_PASS = 2  # rows: the divergence is estimated from answers to each other's prompts


class LoggedKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, completion_ids, KL_completion_ids, label}."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def rows_of(samples: Sequence[Sample], threshold: float, seed: int) -> list[dict[str, Any]]:
    """Rows in an order that depends on the seed; a reward on the threshold itself says nothing."""
    rows = [
        {
            "prompt_ids": list(sample.prompt_token_ids),
            "completion_ids": list(sample.token_ids),
            "label": sample.reward > threshold,
        }
        for sample in samples
        if sample.reward != threshold
    ]
    random.Random(seed).shuffle(rows)
    return rows


def with_foreign_answers(rows: list[dict[str, Any]], micro: int) -> list[dict[str, Any]]:
    """Rows in passes of `micro`, each with an answer of another one in its pass.

    What the model makes of foreign answers estimates how far it has gone from
    the base. A single row at the end would be held against itself: it gets the
    answer of the pass before.
    """
    found = []
    for start in range(0, len(rows), micro):
        block = rows[start : start + micro]
        for at, row in enumerate(block):
            foreign = block[at - 1] if len(block) > 1 else rows[start - 1]
            found.append({**row, "KL_completion_ids": foreign["completion_ids"]})
    return found


def weights(good: int, bad: int) -> tuple[float, float]:
    """What a good and a bad answer weigh.

    >>> weights(30, 10)
    (1.0, 3.0)
    """
    return min(MOST_WEIGHT, max(1.0, bad / good)), min(MOST_WEIGHT, max(1.0, good / bad))


def make_kto_trainer(round_: Round) -> LoggedKTOTrainer:
    """The trainer of one round. Raises NothingToLearn where all answers are good, or all bad."""
    settings = round_.settings
    rows = rows_of(round_.samples, settings.sft_threshold, settings.seed)
    good = sum(row["label"] for row in rows)
    bad = len(rows) - good
    if not good or not bad:
        raise NothingToLearn("KTO needs rewards above trainer.sft_threshold and below it")
    # Twice the rows go through the model, and any prompt may meet the longest answer.
    longest = max(len(row["prompt_ids"]) for row in rows)
    longest += max(len(row["completion_ids"]) for row in rows)
    shape = shape_for(
        len(rows),
        batch_size=settings.batch_size,
        longest=2 * longest,
        processes=ranks.count(),
    )
    micro = max(LEAST_PASS, shape.micro)
    rows = with_foreign_answers(rows, micro)
    desirable, undesirable = weights(good, bad)
    config = KTOConfig(
        **shared_arguments(settings, round_.output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, shape.width // (micro * shape.processes)),
        save_steps=checkpoint_steps(len(rows), shape, settings.epochs),
        beta=settings.preference_beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        max_length=None,
        train_sampling_strategy="sequential",
    )
    trainer = LoggedKTOTrainer(
        model=round_.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=round_.tokenizer,
        callbacks=list(round_.callbacks),
        optimizers=(round_.optimizer, constant_schedule(round_.optimizer)),
    )
    anchor_to_base(trainer)
    return trainer
