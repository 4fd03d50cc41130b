"""What a learning algorithm is: the protocol that ours and everybody else's go by.

An algorithm is an object (or a module) with a `name`, `asks` and `make_trainer`,
registered as an entry point of the group `ratchet.algorithms` under its name.
It is asked twice: by the loop, which has no torch, what it wants of the log; and
by the training process for a transformers.Trainer over the rows that were found.
So whatever needs torch is imported in `make_trainer` and not above it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trainer.batch.samples import Sample
from trainer.runs import Plan
from trajectories.errors import RatchetError
from trajectories.settings import TrainerSettings


class NothingToLearn(RatchetError):
    """The rows of a round cannot teach an algorithm anything: says why."""


@dataclass(frozen=True, slots=True)
class Asks:
    """What an algorithm asks of the log. As it stands: any answer of the policy, however old."""

    needs_ratio: bool = False  # only answers whose importance ratio makes sense
    takes_constrained: bool = False  # and such as a grammar left free (trainer/batch/grammars.py)
    max_staleness: int | None = None  # only of versions this close to the current; None: any
    above: float | None = None  # only trajectories rewarded above this; worse ones are not needed
    middle: float | None = None  # the reward that parts better from worse; None: the mean
    needs_pairs: bool = False  # only answers that can be told better or worse than another
    with_corrections: bool = False  # and with what they should have been, where somebody wrote it
    takes_windows: bool = False  # also what lost the left of its context (trainer.cut_context)
    is_shuffling: bool = False  # `trainer.shuffle_rewards` makes a control of it
    is_for_one_process: bool = False  # its steps depend on how its rows are dealt out to several


@dataclass(frozen=True, slots=True)
class Round:
    """All that an algorithm makes its trainer of."""

    plan: Plan
    model: Any  # the trainable model, on its device: of PEFT, or whole (`trainer.weights`)
    tokenizer: Any
    samples: Sequence[Sample]  # those that it asked for, in the order of the log
    output: Path  # where the trainer puts its checkpoints, from which it is resumed
    optimizer: Any  # with the moments of the round before
    callbacks: Sequence[Any]  # to be given to the trainer: progress, and the end at a NaN
    load_base: Callable[[], Any] | None = None  # the frozen base; None: `model` less its adapter

    def reference(self) -> Any:
        """The frozen base model for a TRL trainer's `ref_model`; None: it finds it in the model."""
        return None if self.load_base is None else self.load_base()

    @property
    def settings(self) -> TrainerSettings:
        return self.plan.trainer


@runtime_checkable
class Algorithm(Protocol):
    """From samples to a trainer."""

    @property
    def name(self) -> str:
        """The name of its entry point, and what `trainer.algorithm` calls it."""

    def asks(self, settings: TrainerSettings) -> Asks:
        """Which of the log it can learn from, under these settings."""

    def make_trainer(self, round_: Round) -> Any:
        """A transformers.Trainer over the round's samples, ready for `train()`.

        Raises NothingToLearn where they cannot teach it anything.
        """
