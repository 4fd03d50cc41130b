"""The losses of the GRPO family on logged rows, as one pure function of (B, T) tensors.

For token t of answer i with advantage A, policy pi and behaviour policy mu
(whoever sampled it), r = pi / mu and the clipped surrogate

    S(r) = min(r A, clip(r, 1 - low, 1 + high) A);  for A < 0 at least dual * A

    grpo      mean over answers of the mean over their tokens of -S(r)      2402.03300
    dapo      mean over all tokens of -S(r)                                 2503.14476
    dr_grpo   sum over tokens of -S(r), by a constant for each answer       2503.20783
    gspo      mean over answers of -S(s), s = exp(mean over tokens of ln r) 2507.18071
    cispo     mean over all tokens of -sg(min(r, 1 + high)) A ln pi         2506.13585

The dual clip is of 1912.09729. Beside it: DeepSeek-V3.2's off-policy mask
(2512.02556): an answer with A < 0 whose mean of ln mu - ln pi is above a
threshold teaches nothing; the mean and never the sum, which would mask long
answers away. Decoupled (2505.24298): r is against the proximal policy, the one
at the start of the round, and a truncated weight min(prox / mu, cap) makes good
for the rest. A KL to the base (k3, joschu.net/blog/kl-approx.html) is added to
each token.

Whatever is said of an answer is said of a *span*: a row may hold several
answers of one trajectory (batch/merging.py), and the loss of a merged row is
the sum of its spans'. What a sum is divided by is counted over a whole
optimizer step, its micro-batches and processes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Loss = Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"]

LARGEST_LOG_RATIO = 20.0  # beyond it nothing would be left of a gradient but infinity times zero


@dataclass(frozen=True, slots=True)
class Objective:
    """Which loss, and what bounds it."""

    loss: Loss = "dapo"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float = 1.5
    off_policy_threshold: float | None = 0.2  # nats a token
    is_decoupled: bool = False
    weight_cap: float = 2.0  # of prox / mu
    kl_to_base: float = 0.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of each token; logprobs in nats, of anything where `spans_bt` is 0."""

    policy_bt: Tensor  # the only one with a gradient
    behaviour_bt: Tensor
    advantages_bt: Tensor  # the same all over a span
    spans_bt: Tensor  # int64; 0: no loss; k: of the k-th span of its row
    proximal_bt: Tensor | None = None
    base_bt: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What one optimizer step holds, in this process's share: sums are divided by it."""

    tokens: Tensor  # with loss
    spans: Tensor
    longest: float  # the constant of dr_grpo, in tokens


def policy_loss(objective: Objective, answers: Answers, size: Size) -> tuple[Tensor, Tensor]:
    """The loss, and which tokens were clipped or masked away (B, T), of those with loss."""
    mask_bt = answers.spans_bt > 0
    spans_bt, advantages_bt = answers.spans_bt, answers.advantages_bt
    anchor_bt = answers.behaviour_bt
    if objective.is_decoupled:
        assert answers.proximal_bt is not None, "the decoupled loss needs the proximal policy"
        anchor_bt = answers.proximal_bt
    log_ratio_bt = _difference(answers.policy_bt, anchor_bt, mask_bt)
    if objective.loss == "gspo":
        log_ratio_bt = span_means(log_ratio_bt, spans_bt)
    ratio_bt = log_ratio_bt.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    if objective.loss == "cispo":
        highest = 1 + objective.clip_high
        is_idle_bt = torch.zeros_like(mask_bt)  # no token loses its gradient
        loss_bt = -ratio_bt.detach().clamp(max=highest) * advantages_bt * answers.policy_bt
    else:
        loss_bt, is_idle_bt = _clipped(objective, ratio_bt, advantages_bt)
    if objective.is_decoupled:
        loss_bt = loss_bt * _behaviour_weights(objective, answers, mask_bt)
    if objective.off_policy_threshold is not None:
        policy_bt = answers.policy_bt.detach()
        drift_bt = span_means(_difference(answers.behaviour_bt, policy_bt, mask_bt), spans_bt)
        is_far_bt = (advantages_bt < 0) & (drift_bt > objective.off_policy_threshold)
        loss_bt = loss_bt.masked_fill(is_far_bt, 0.0)
        is_idle_bt = is_idle_bt | is_far_bt
    if objective.kl_to_base:
        assert answers.base_bt is not None, "a KL to the base needs its logprobs"
        kl_bt = k3(answers.policy_bt, answers.base_bt, mask_bt)
        loss_bt = loss_bt + objective.kl_to_base * kl_bt
    weights_bt = _shares(objective.loss, spans_bt, mask_bt, size)
    loss = (loss_bt.masked_fill(~mask_bt, 0.0) * weights_bt).sum()
    return loss, is_idle_bt & mask_bt


def span_sums(values_bt: Tensor, spans_bt: Tensor) -> Tensor:
    """(B, T) values summed by span, (B, T + 1): column k is the row's k-th span, column 0 waste."""
    rows, columns = values_bt.shape
    sums_bs = torch.zeros(rows, columns + 1, dtype=values_bt.dtype, device=values_bt.device)
    return sums_bs.scatter_add(1, spans_bt, values_bt)


def span_means(values_bt: Tensor, spans_bt: Tensor) -> Tensor:
    """The mean of each span, on each of its tokens."""
    counts_bs = span_sums(torch.ones_like(values_bt), spans_bt)
    means_bs = span_sums(values_bt, spans_bt) / counts_bs.clamp(min=1.0)
    return means_bs.gather(1, spans_bt)


def k3(
    policy_bt: Tensor, other_bt: Tensor, mask_bt: Tensor, *, largest: float = LARGEST_LOG_RATIO
) -> Tensor:
    """An estimate of KL(policy || other) at each token the policy sampled: never negative.

    `largest` bounds how much likelier the other may find a token, in nats: the
    estimate has a heavy tail there.
    """
    log_ratio_bt = _difference(other_bt, policy_bt, mask_bt).clamp(max=largest)
    return log_ratio_bt.exp() - log_ratio_bt - 1


def _difference(one_bt: Tensor, other_bt: Tensor, mask_bt: Tensor) -> Tensor:
    return (one_bt - other_bt).masked_fill(~mask_bt, 0.0)


def _clipped(
    objective: Objective, ratio_bt: Tensor, advantages_bt: Tensor
) -> tuple[Tensor, Tensor]:
    """The negative surrogate, and where it is flat."""
    low, high = 1 - objective.clip_low, 1 + objective.clip_high
    surrogate_bt = torch.min(ratio_bt * advantages_bt, ratio_bt.clamp(low, high) * advantages_bt)
    lowest_bt = objective.dual_clip * advantages_bt
    surrogate_bt = torch.where(advantages_bt < 0, torch.max(surrogate_bt, lowest_bt), surrogate_bt)
    is_flat_bt = torch.where(
        advantages_bt > 0, ratio_bt > high, (ratio_bt < low) | (ratio_bt > objective.dual_clip)
    )
    return -surrogate_bt, is_flat_bt


def _behaviour_weights(objective: Objective, answers: Answers, mask_bt: Tensor) -> Tensor:
    """How much likelier the proximal policy was to say it than whoever did, truncated."""
    assert answers.proximal_bt is not None
    log_weight_bt = _difference(answers.proximal_bt, answers.behaviour_bt, mask_bt)
    if objective.loss == "gspo":
        log_weight_bt = span_means(log_weight_bt, answers.spans_bt)
    weights_bt = log_weight_bt.clamp(max=LARGEST_LOG_RATIO).exp()
    return weights_bt.clamp(max=objective.weight_cap).detach()


def _shares(loss: Loss, spans_bt: Tensor, mask_bt: Tensor, size: Size) -> Tensor:
    """What part of the step's loss each token is."""
    if loss in ("dapo", "cispo"):
        return mask_bt / size.tokens.clamp(min=1.0)
    if loss == "dr_grpo":
        return mask_bt / (size.spans.clamp(min=1.0) * size.longest)
    ones_bt = mask_bt.to(size.spans.dtype)
    lengths_bt = span_sums(ones_bt, spans_bt).gather(1, spans_bt).clamp(min=1.0)
    return ones_bt / lengths_bt / size.spans.clamp(min=1.0)
