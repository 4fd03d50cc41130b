"""The algorithms that are installed: entry points of the group `ratchet.algorithms`.

Looked up by name only; a module is imported when its algorithm is asked for.
Several that run one after the other are written `sft+grpo` wherever one word
is needed (`trainer.algorithm` also takes a list).
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from trainer.algorithms.protocol import Algorithm, Asks
from trainer.launch.configs import find_launch
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings

GROUP = "ratchet.algorithms"
SEPARATOR = "+"


class AlgorithmError(SettingsError):
    """An algorithm that is not installed, or that is not what the protocol says."""


def installed() -> tuple[str, ...]:
    """The names that `trainer.algorithm` may say."""
    return tuple(sorted(_found()))


def find(name: str) -> Algorithm:
    """The algorithm of that name. Raises AlgorithmError, which says what to do."""
    point = _found().get(name)
    if point is None:
        known = ", ".join(installed()) or "none: install ratchet again (pip install -e .)"
        raise AlgorithmError(f"there is no algorithm {name!r} (installed: {known})")
    try:
        algorithm = point.load()
    except Exception as error:  # whatever a module of somebody else's does when it is imported
        raise AlgorithmError(
            f"the algorithm {name!r} ({point.value}) cannot be imported:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not isinstance(algorithm, Algorithm) or algorithm.name != name:
        raise AlgorithmError(
            f"the algorithm {name!r} ({point.value}) has no `name` equal to {name!r}, `asks` and"
            " `make_trainer` (docs/algorithms.md)"
        )
    return algorithm


def names_in(algorithm: str) -> tuple[str, ...]:
    """The names in the order in which they run.

    >>> names_in("sft+grpo")
    ('sft', 'grpo')
    """
    return tuple(algorithm.split(SEPARATOR))


def asks_of(algorithm: str, settings: TrainerSettings) -> Asks:
    """What one or several in turn ask of the log. Raises AlgorithmError for what cannot run."""
    names = names_in(algorithm)
    asked = joint([find(name).asks(settings) for name in names])
    if settings.shuffle_rewards and not asked.is_shuffling:
        raise AlgorithmError(
            f"trainer.shuffle_rewards is no control for {algorithm}: it chooses its rows by reward"
            " before they are shuffled"
        )
    if asked.is_for_one_process and not _is_alone(settings):
        raise AlgorithmError(
            f"trainer.launch is {settings.launch!r}, and {algorithm} is trained by one process"
            " only: leave it unset, or write one_gpu (docs/scale.md)"
        )
    return asked


def joint(asked: Sequence[Asks]) -> Asks:
    """What satisfies all: each takes its own of it afterwards."""
    ages = [one.max_staleness for one in asked]
    bounds = [one.above for one in asked]
    middles = {one.middle for one in asked}
    return Asks(
        needs_ratio=all(one.needs_ratio for one in asked),
        takes_constrained=asked[
            0
        ].takes_constrained,  # later legs start as another than who said it
        max_staleness=None if None in ages else max(age for age in ages if age is not None),
        above=None if None in bounds else min(bound for bound in bounds if bound is not None),
        middle=middles.pop() if len(middles) == 1 else None,
        needs_pairs=all(one.needs_pairs for one in asked),
        with_corrections=any(one.with_corrections for one in asked),
        takes_windows=any(one.takes_windows for one in asked),
        is_shuffling=all(one.is_shuffling for one in asked),
        is_for_one_process=any(one.is_for_one_process for one in asked),
    )


def _is_alone(settings: TrainerSettings) -> bool:
    """Whether a round is one process. Raises SettingsError for a launch that is not there."""
    if settings.launch is None:
        return True
    return find_launch(settings.launch, settings.launch_arguments).is_alone


@cache
def _found() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
