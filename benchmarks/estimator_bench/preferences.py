"""KTO and DPO on the toy: TRL's formulas (and its defaults) over our rows, weights and pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.estimator_bench.brain import Brain, padded
from benchmarks.estimator_bench.learner import Drill, Pupil, descend, logprobs_of
from trainer.algorithms.judged import answers_of, foreign, weights
from trainer.batch.pairs import answer_of, pairs_among
from trainer.batch.samples import Sample

BETA = 0.1  # of trainer.preference_beta


def judge(pupil: Pupil, samples: Sequence[Sample], drill: Drill, seed: int) -> None:
    """KTO: each answer against how far the policy is from the base (2402.01306, equation 7)."""
    answers = answers_of(samples, 0.0, seed)
    good = sum(answer.is_good for answer in answers)
    if not 0 < good < len(answers):
        return
    rows = [samples[answer.sample] for answer in answers]
    is_good_b = torch.tensor([answer.is_good for answer in answers])
    desirable, undesirable = weights(good, len(answers) - good)
    weights_b = torch.where(is_good_b, desirable, undesirable)

    def loss_of(places: Tensor) -> Tensor:
        of = [rows[at] for at in places.tolist()]
        strange = [of[at] for at in foreign(len(of), len(of))]
        with torch.no_grad():
            gap = _gains(pupil, of, strange).mean().clamp(min=0)
        gains_b = BETA * (_gains(pupil, of, of) - gap)
        signed_b = torch.where(is_good_b[places], gains_b, -gains_b)
        return (weights_b[places] * (1 - functional.sigmoid(signed_b))).mean()

    descend(pupil, len(rows), drill, seed, loss_of)


def prefer(pupil: Pupil, samples: Sequence[Sample], drill: Drill, seed: int) -> int:
    """DPO: of two answers to one prompt the better one up (2305.18290); how many pairs."""
    found = pairs_among(map(answer_of, samples))
    pairs = [(samples[p.better], samples[p.worse]) for p in found if p.better is not None]

    def loss_of(places: Tensor) -> Tensor:
        better = [pairs[at][0] for at in places.tolist()]
        worse = [pairs[at][1] for at in places.tolist()]
        margins_b = _gains(pupil, better, better) - _gains(pupil, worse, worse)
        return -functional.logsigmoid(BETA * margins_b).mean()

    if pairs:
        descend(pupil, len(pairs), drill, seed, loss_of)
    return len(pairs)


def _gains(pupil: Pupil, asked: Sequence[Sample], said: Sequence[Sample]) -> Tensor:
    """How much likelier than the base the policy finds what was said to what was asked, nats."""
    rows = [(a.prompt_token_ids, s.token_ids) for a, s in zip(asked, said, strict=True)]
    tokens_bt = padded([(*prompt, *answer) for prompt, answer in rows])
    mask_bt = padded([(*[0] * (len(p) - 1), *[1] * len(answer)) for p, answer in rows], 0)

    def logprobs(brain: Brain) -> Tensor:
        return (logprobs_of(brain, tokens_bt) * mask_bt).sum(1)

    with torch.no_grad():
        base_b = logprobs(pupil.base)
    return logprobs(pupil.brain) - base_b
