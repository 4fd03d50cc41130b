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
   (equation 8), up to judged.MOST_WEIGHT.
"""

from typing import Any

from trl import KTOConfig, KTOTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.judged import answers_of, foreign, row_of, weights
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.algorithms.reading import PLACEHOLDER, ReadRows
from trainer.algorithms.reference import anchor_to_base
from trainer.batch.order import checkpoint_steps, shape_for
from trainer.policy import constant_schedule

LEAST_PASS = 2  # rows: the divergence is estimated from answers to each other's prompts


class LoggedKTOTrainer(KTOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, completion_ids, KL_completion_ids, label}."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def make_kto_trainer(round_: Round) -> LoggedKTOTrainer:
    """The trainer of one round. Raises NothingToLearn where all answers are good, or all bad."""
    settings = round_.settings
    samples = round_.samples
    answers = answers_of(samples, settings.sft_threshold, settings.seed)
    good = sum(answer.is_good for answer in answers)
    bad = len(answers) - good
    if not good or not bad:
        raise NothingToLearn("KTO needs rewards above trainer.sft_threshold and below it")
    # Twice the rows go through the model, and any prompt may meet the longest answer.
    longest = max(answer.prompt for answer in answers)
    longest += max(answer.completion for answer in answers)
    shape = shape_for(
        len(answers),
        batch_size=settings.batch_size,
        longest=2 * longest,
        processes=ranks.count(),
    )
    micro = max(LEAST_PASS, shape.micro)
    strangers = foreign(len(answers), micro)
    desirable, undesirable = weights(good, bad)
    config = KTOConfig(
        **shared_arguments(settings, round_.output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, shape.width // (micro * shape.processes)),
        save_steps=checkpoint_steps(len(strangers), shape, settings.epochs),
        beta=settings.preference_beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        max_length=None,
        train_sampling_strategy="sequential",
    )
    trainer = LoggedKTOTrainer(
        model=round_.model,
        ref_model=round_.reference(),
        args=config,
        train_dataset=PLACEHOLDER,
        processing_class=round_.tokenizer,
        callbacks=list(round_.callbacks),
        optimizers=(round_.optimizer, constant_schedule(round_.optimizer)),
    )
    trainer.train_dataset = ReadRows(
        len(strangers), lambda at: row_of(answers[at], answers[strangers[at]], samples)
    )
    anchor_to_base(trainer)
    return trainer
