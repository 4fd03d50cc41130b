"""One round on samples: our advantages and our loss, with the optimizer around them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.estimator_bench.brain import Brain, padded
from trainer.algorithms import loss
from trainer.batch.samples import Sample


@dataclass(frozen=True, slots=True)
class Drill:
    """How a round is trained."""

    epochs: int = 2
    batch: int = 64
    learning_rate: float = 1e-3
    objective: loss.Objective = field(default_factory=loss.Objective)
    is_uncorrected: bool = False  # the ratio is 1 whoever sampled: TRL's way with logged rows


@dataclass(slots=True)
class Pupil:
    """A policy, the base that it came from, and the moments of its optimizer."""

    brain: Brain
    base: Brain
    optimizer: torch.optim.Optimizer

    @classmethod
    def from_base(cls, base: Brain) -> "Pupil":
        brain = Brain()
        brain.load_state_dict(base.state_dict())
        return cls(brain, base, torch.optim.AdamW(brain.parameters(), betas=(0.9, 0.99)))


@dataclass(frozen=True, slots=True)
class Rows:
    """Samples as tensors: prompt, answer, and what is known of each answer's token."""

    tokens_bt: Tensor
    behaviour_bt: Tensor
    spans_bt: Tensor  # 1 where an answer's token is predicted
    advantages_b: Tensor

    def take(self, places: Tensor) -> "Rows":
        return Rows(
            self.tokens_bt[places],
            self.behaviour_bt[places],
            self.spans_bt[places],
            self.advantages_b[places],
        )


def rows_of(samples: Sequence[Sample], advantages: Sequence[float]) -> Rows:
    """All samples with an advantage, padded to one length; columns are predicted tokens."""
    kept = [(s, a) for s, a in zip(samples, advantages, strict=True) if a]
    tokens = padded([(*s.prompt_token_ids, *s.token_ids) for s, _ in kept])
    before = [len(s.prompt_token_ids) - 1 for s, _ in kept]
    logprobs = [(*[0.0] * n, *s.logprobs) for n, (s, _) in zip(before, kept, strict=True)]
    spans = [(*[0] * n, *[1] * len(s.token_ids)) for n, (s, _) in zip(before, kept, strict=True)]
    return Rows(
        tokens,
        padded(logprobs, 0.0),
        padded(spans, 0),
        torch.tensor([advantage for _, advantage in kept]),
    )


def logprobs_of(brain: Brain, tokens_bt: Tensor) -> Tensor:
    """The logprob of each token but the first."""
    logits = brain(tokens_bt[:, :-1])
    return -functional.cross_entropy(logits.transpose(1, 2), tokens_bt[:, 1:], reduction="none")


def train(
    pupil: Pupil,
    samples: Sequence[Sample],
    advantages: Sequence[float],
    drill: Drill,
    seed: int,
    start: Brain | None = None,
) -> None:
    """Policy gradient over the samples; those with no advantage teach nothing.

    `start` is the policy at the start of the round, where this is not it.
    """
    if not any(advantages):
        return
    rows = rows_of(samples, advantages)
    with torch.no_grad():
        proximal_bt = logprobs_of(start or pupil.brain, rows.tokens_bt)
        base_bt = logprobs_of(pupil.base, rows.tokens_bt)
    objective = drill.objective
    if drill.is_uncorrected:
        objective = replace(objective, off_policy_threshold=None)

    def loss_of(places: Tensor) -> Tensor:
        part = rows.take(places)
        policy_bt = logprobs_of(pupil.brain, part.tokens_bt)
        answers = loss.Answers(
            policy_bt=policy_bt,
            behaviour_bt=policy_bt.detach() if drill.is_uncorrected else part.behaviour_bt,
            advantages_bt=part.advantages_b[:, None].expand_as(policy_bt),
            spans_bt=part.spans_bt,
            proximal_bt=proximal_bt[places],
            base_bt=base_bt[places],
        )
        mask_bt = part.spans_bt > 0
        size = loss.Size(mask_bt.sum().float(), mask_bt.any(1).sum().float(), 4.0)
        return loss.policy_loss(objective, answers, size)[0]

    descend(pupil, len(rows.advantages_b), drill, seed, loss_of)


def imitate(pupil: Pupil, samples: Sequence[Sample], drill: Drill, seed: int) -> None:
    """SFT: the mean negative logprob of the answers' tokens."""
    if not samples:
        return
    rows = rows_of(samples, [1.0] * len(samples))

    def loss_of(places: Tensor) -> Tensor:
        part = rows.take(places)
        mask_bt = part.spans_bt > 0
        chosen_bt = logprobs_of(pupil.brain, part.tokens_bt)
        return -(chosen_bt * mask_bt).sum() / mask_bt.sum()

    descend(pupil, len(samples), drill, seed, loss_of)


def descend(
    pupil: Pupil, count: int, drill: Drill, seed: int, loss_of: Callable[[Tensor], Tensor]
) -> None:
    """Passes over `count` rows in a new order each; `loss_of` is told the places of a batch."""
    chance = random.Random(seed)
    for group in pupil.optimizer.param_groups:
        group["lr"] = drill.learning_rate
    order = list(range(count))
    for _ in range(drill.epochs):
        chance.shuffle(order)
        for start in range(0, count, drill.batch):
            places = torch.tensor(order[start : start + drill.batch])
            pupil.optimizer.zero_grad()
            loss_of(places).backward()
            torch.nn.utils.clip_grad_norm_(pupil.brain.parameters(), 1.0)
            pupil.optimizer.step()
