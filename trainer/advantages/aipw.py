"""The mean reward of all traffic, estimated from the few who were heard. Pure.

Augmented inverse-propensity weighting (Robins, Rotnitzky and Zhao, 1994):

    r_i = m_i + R_i / rho_i * (y_i - m_i)

m is a guess of the reward (a judge's, AIR's), y what was said, R whether it was
heard, rho how likely that was. The mean of r is unbiased where rho is right,
whatever m is, and where m is right, whatever rho is. A missing label is no 0:
it leaves the guess as it is. Whoever was asked and said nothing is not heard,
so rho is the chance of being asked times that of answering then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum, inf, sqrt

LEAST_PROPENSITY = 0.01  # below, one label would count for more than a hundred


@dataclass(frozen=True, slots=True)
class Heard:
    """One trajectory: what was guessed, what was said, and how likely it was to be heard."""

    guess: float
    label: float | None  # None: nothing was said
    propensity: float  # in (0, 1]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and how sure it is."""

    mean: float
    standard_error: float
    labels: int


def corrected(entry: Heard, least: float = LEAST_PROPENSITY) -> float:
    """The guess, put right by what was said."""
    if entry.label is None:
        return entry.guess
    return entry.guess + (entry.label - entry.guess) / max(entry.propensity, least)


def aipw(entries: Iterable[Heard], least: float = LEAST_PROPENSITY) -> Estimate | None:
    """The mean reward over all entries; None for none. Propensities below `least` are raised to it.

    Raises ValueError for a propensity outside (0, 1].
    """
    known = list(entries)
    if not known:
        return None
    for entry in known:
        if not 0 < entry.propensity <= 1:
            raise ValueError(f"a propensity is above 0 and at most 1, not {entry.propensity}")
    values = [corrected(entry, least) for entry in known]
    count = len(values)
    mean = fsum(values) / count
    spread = fsum((value - mean) ** 2 for value in values)
    error = sqrt(spread / (count - 1) / count) if count > 1 else inf
    return Estimate(mean, error, sum(entry.label is not None for entry in known))
