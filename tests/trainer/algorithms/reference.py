"""The losses written out token by token in numpy, float64, from the papers' equations.

Nothing of ours is called: an answer is a list of numbers here, there are no
rows, no spans and no tensors, and derivatives were taken by hand.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Case:
    """One answer: logprobs of its tokens under each policy, and its advantage."""

    policy: list[float]
    behaviour: list[float]
    proximal: list[float]
    base: list[float]
    advantage: float


@dataclass(frozen=True)
class Knobs:
    loss: str
    low: float = 0.2
    high: float = 0.28
    dual: float = 1.5
    threshold: float | None = None
    is_decoupled: bool = False
    cap: float = 2.0
    beta: float = 0.0
    longest: float = 7.0


def surrogate(ratio: float, advantage: float, knobs: Knobs) -> tuple[float, float]:
    """PPO's clipped surrogate with the dual clip, and its derivative by the ratio."""
    if advantage >= 0:
        if ratio <= 1 + knobs.high:
            return ratio * advantage, advantage
        return (1 + knobs.high) * advantage, 0.0
    if ratio < 1 - knobs.low:
        return (1 - knobs.low) * advantage, 0.0
    if ratio > knobs.dual:
        return knobs.dual * advantage, 0.0
    return ratio * advantage, advantage


def loss_and_gradient(cases: list[Case], knobs: Knobs) -> tuple[float, list[list[float]]]:
    """The loss of one step over all answers, and its derivative by each policy logprob."""
    total = 0.0
    gradient = []
    tokens = sum(len(case.policy) for case in cases)
    for case in cases:
        length = len(case.policy)
        if knobs.loss in ("dapo", "cispo"):
            share = 1 / tokens
        elif knobs.loss == "dr_grpo":
            share = 1 / (len(cases) * knobs.longest)
        else:
            share = 1 / (len(cases) * length)
        old = case.proximal if knobs.is_decoupled else case.behaviour
        drift = np.mean([m - p for m, p in zip(case.behaviour, case.policy, strict=True)])
        is_masked = knobs.threshold is not None and case.advantage < 0 and drift > knobs.threshold
        sequence_ratio = np.exp(np.mean([p - o for p, o in zip(case.policy, old, strict=True)]))
        sequence_weight = np.exp(
            np.mean([x - m for x, m in zip(case.proximal, case.behaviour, strict=True)])
        )
        slopes = [0.0] * length
        for t in range(length):
            p, m, x, b = case.policy[t], case.behaviour[t], case.proximal[t], case.base[t]
            weight = 1.0
            if knobs.is_decoupled:
                raw = sequence_weight if knobs.loss == "gspo" else np.exp(x - m)
                weight = min(raw, knobs.cap)
            if is_masked:
                weight = 0.0
            if knobs.loss == "cispo":
                kept = min(np.exp(p - old[t]), 1 + knobs.high)
                value, slope = kept * case.advantage * p, kept * case.advantage
                slopes[t] -= share * weight * slope
            elif knobs.loss == "gspo":
                value, by_ratio = surrogate(sequence_ratio, case.advantage, knobs)
                for u in range(length):  # each token's logprob moves the whole answer's ratio
                    slopes[u] -= share * weight * by_ratio * sequence_ratio / length
            else:
                ratio = np.exp(p - old[t])
                value, by_ratio = surrogate(ratio, case.advantage, knobs)
                slopes[t] -= share * weight * by_ratio * ratio
            total -= share * weight * value
            if knobs.beta:
                total += share * knobs.beta * (np.exp(b - p) - (b - p) - 1)
                slopes[t] += share * knobs.beta * (1 - np.exp(b - p))
        gradient.append([float(slope) for slope in slopes])
    return float(total), gradient
