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

from trl import DPOConfig, DPOTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.algorithms.reading import PLACEHOLDER, ReadRows
from trainer.algorithms.reference import anchor_to_base
from trainer.algorithms.rendering import Rendering
from trainer.batch.order import checkpoint_steps, shape_for
from trainer.batch.pairs import Pair, answer_of, pairs_among
from trainer.batch.samples import Sample
from trainer.policy import constant_schedule

logger = logging.getLogger(__name__)

Row = dict[str, list[int]]


class LoggedDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, chosen_ids, rejected_ids}."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def row_of(pair: Pair, samples: Sequence[Sample], rendering: Rendering) -> Row | None:
    """A pair's row; a correction that cannot be rendered has none, and one that says the same."""
    worse = samples[pair.worse]
    if pair.better is not None:
        chosen = samples[pair.better].token_ids
    elif (rendered := rendering.tokens_of(worse)) is not None:
        chosen = rendered
    else:
        logger.warning("a correction of %s was left out: %s", worse.id, rendering.reason)
        return None
    if chosen == worse.token_ids:
        return None
    return {
        "prompt_ids": list(worse.prompt_token_ids),
        "chosen_ids": list(chosen),
        "rejected_ids": list(worse.token_ids),
    }


def pairs_of(samples: Sequence[Sample], rendering: Rendering) -> tuple[list[Pair], int]:
    """The pairs that have a row, and how many tokens its longer side has at most."""
    kept, longest = [], 0
    for pair in pairs_among(map(answer_of, samples)):
        if row := row_of(pair, samples, rendering):
            kept.append(pair)
            answers = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
            longest = max(longest, len(row["prompt_ids"]) + answers)
    return kept, longest


def make_dpo_trainer(round_: Round) -> LoggedDPOTrainer:
    """The trainer of one round. Raises NothingToLearn where there is no pair."""
    settings = round_.settings
    samples = round_.samples
    rendering = Rendering(round_.tokenizer, round_.model, settings.max_length)
    pairs, longest = pairs_of(samples, rendering)
    if not pairs:
        raise NothingToLearn("there is no pair of answers to one prompt, and no correction")
    shape = shape_for(
        len(pairs),
        batch_size=settings.batch_size,
        longest=2 * longest,
        processes=ranks.count(),
    )
    config = DPOConfig(
        **shared_arguments(settings, round_.output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        save_steps=checkpoint_steps(len(pairs), shape, settings.epochs),
        beta=settings.preference_beta,
        max_length=None,
    )
    trainer = LoggedDPOTrainer(
        model=round_.model,
        ref_model=round_.reference(),
        args=config,
        train_dataset=PLACEHOLDER,
        processing_class=round_.tokenizer,
        callbacks=list(round_.callbacks),
        optimizers=(round_.optimizer, constant_schedule(round_.optimizer)),
    )
    trainer.train_dataset = ReadRows(
        len(pairs), lambda at: row_of(pairs[at], samples, rendering) or {}
    )
    anchor_to_base(trainer)
    return trainer
