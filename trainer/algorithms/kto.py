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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trl import KTOConfig, KTOTrainer

from trainer import ranks
from trainer.algorithms.grpo import shared_arguments
from trainer.algorithms.protocol import NothingToLearn, Round
from trainer.algorithms.reading import PLACEHOLDER, ReadRows
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What has to be known of a sample before its row is read."""

    sample: int  # its place among the samples
    is_good: bool
    prompt: int  # tokens
    completion: int  # tokens


def answers_of(samples: Iterable[Sample], threshold: float, seed: int) -> list[Answer]:
    """Answers in an order that depends on the seed; a reward on the threshold says nothing."""
    answers = [
        Answer(at, s.reward > threshold, len(s.prompt_token_ids), len(s.token_ids))
        for at, s in enumerate(samples)
        if s.reward != threshold
    ]
    random.Random(seed).shuffle(answers)
    return answers


def foreign(count: int, micro: int) -> list[int]:
    """Of each of `count` rows in passes of `micro`, another row of its pass.

    What the model makes of foreign answers estimates how far it has gone from
    the base. A single row at the end would be held against itself: it gets the
    answer of the pass before.
    """
    found = []
    for start in range(0, count, micro):
        last = min(start + micro, count) - 1
        found += [last, *range(start, last)] if last > start else [start - 1]
    return found


def row_of(answer: Answer, stranger: Answer, samples: Sequence[Sample]) -> dict[str, Any]:
    """An answer, and that of somebody else to hold it against."""
    sample = samples[answer.sample]
    return {
        "prompt_ids": list(sample.prompt_token_ids),
        "completion_ids": list(sample.token_ids),
        "label": answer.is_good,
        "KL_completion_ids": list(samples[stranger.sample].token_ids),
    }


def weights(good: int, bad: int) -> tuple[float, float]:
    """What a good and a bad answer weigh.

    >>> weights(30, 10)
    (1.0, 3.0)
    """
    return min(MOST_WEIGHT, max(1.0, bad / good)), min(MOST_WEIGHT, max(1.0, good / bad))


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
