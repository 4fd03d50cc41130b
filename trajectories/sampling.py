"""Whether an answer was sampled so that its log probabilities describe how. Pure."""

from trajectories.model import Sampling

# Sampling that cuts the distribution more than this makes the raw logprob a poor
# description of how the token was chosen.
LEAST_TOP_P = 0.8
LEAST_TOP_K = 10
MOST_MIN_P = 0.2


def has_ratio(sampling: Sampling) -> bool:
    """Whether raw logprobs describe how the tokens were chosen well enough for a ratio."""
    return not sampling.is_constrained and not _is_cut_hard(sampling)


def is_only_constrained(sampling: Sampling) -> bool:
    """Whether a grammar is all that is in the way of a ratio."""
    return sampling.is_constrained and not _is_cut_hard(sampling)


def _is_cut_hard(sampling: Sampling) -> bool:
    """Whether temperature, truncation or penalties chose the tokens as much as the model did."""
    return (
        sampling.temperature == 0
        or (sampling.top_p is not None and sampling.top_p < LEAST_TOP_P)
        or (sampling.top_k is not None and 0 < sampling.top_k < LEAST_TOP_K)
        or (sampling.min_p is not None and sampling.min_p > MOST_MIN_P)
        or bool(sampling.presence_penalty)
        or bool(sampling.frequency_penalty)
        or sampling.repetition_penalty not in (None, 1.0)
    )
