"""Several algorithms in one round, one after the other, as the legs of a relay.

Each leg starts from the weights and moments that the one before it left in
the run's directory, and loads them as a round loads those of its parent: what
was killed goes on in the right leg, and comes out as if it had not been.
Whatever a leg asks of the log it takes of the round's samples. Importance
ratios are against the recorded logprobs in every leg: what sampled a row is
not changed by what was learned since. No torch.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import orjson

from trainer.algorithms.plugins import names_in
from trainer.algorithms.protocol import Asks
from trainer.batch.samples import Sample
from trainer.durable import write_atomic
from trainer.runs import CHECKPOINTS, LEGS, OPTIMIZER, Plan, RunDirectory


@dataclass(frozen=True, slots=True)
class Leg:
    """One algorithm of a round, and where its files are."""

    algorithm: str
    number: int
    total: int  # legs of the round
    run: Path

    @property
    def is_last(self) -> bool:
        return self.number == self.total - 1

    @property
    def trained(self) -> Path:
        """What it leaves; that of the last one is the round's."""
        beside = self.run / LEGS / f"{self.number}-{self.algorithm}"
        return RunDirectory(self.run).trained if self.is_last else beside

    @property
    def checkpoints(self) -> Path:
        """Its own: those of another leg would be another algorithm's."""
        return self.run / (CHECKPOINTS if self.number == 0 else f"{CHECKPOINTS}-{self.number}")

    def report(self) -> dict[str, float] | None:
        """The metrics of a leg that is over; None for one that is not, and for the last."""
        if self.is_last or not self.trained.is_dir():
            return None
        found: dict[str, float] = orjson.loads(self._metrics.read_bytes())
        return found

    def write_report(self, metrics: dict[str, float]) -> None:
        """To be done before the weights are put in place, which says that the leg is over."""
        if not self.is_last:
            self._metrics.parent.mkdir(exist_ok=True)
            write_atomic(self._metrics, orjson.dumps(metrics))

    def reported(self, plan: Plan) -> tuple[Plan, Path]:
        """Under which run, and where, it is reported: by itself, where the round has several."""
        if self.total == 1:
            return plan, self.run
        name = f"{plan.run_id}-{self.algorithm}"
        return plan.model_copy(update={"run_id": name}), self.run / self.algorithm

    def named(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics under the leg's name, where the round has several."""
        if self.total == 1:
            return metrics
        return {f"{self.algorithm}/{name}": value for name, value in metrics.items()}

    @property
    def _metrics(self) -> Path:
        return self.run / LEGS / f"{self.number}-{self.algorithm}.json"


def legs(plan: Plan, run: Path) -> list[Leg]:
    """The legs of a round, in the order in which they run."""
    names = names_in(plan.algorithm)
    return [Leg(name, number, len(names), run) for number, name in enumerate(names)]


def plan_after(plan: Plan, before: Leg | None) -> Plan:
    """The plan of a leg: the round's, from where the leg before it ended."""
    if before is None:
        return plan
    moments = before.trained / OPTIMIZER
    return plan.model_copy(
        update={
            "parent_path": str(before.trained),
            "optimizer_path": str(moments) if moments.is_file() else None,
        }
    )


class Chosen(Sequence[Sample]):
    """Some of a round's samples, read when they are asked for."""

    def __init__(self, samples: Sequence[Sample], places: Sequence[int]) -> None:
        self._samples = samples
        self._places = array("Q", places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return Chosen(self._samples, self._places[index])
        return self._samples[self._places[index]]


def taken(
    samples: Sequence[Sample], asked: Asks, current: int, *, is_first: bool = True
) -> Sequence[Sample]:
    """The samples that a leg asks for, in their order; `current` is the version before the round.

    Only the first leg starts as that version, and can tell what a grammar took away.
    """
    if not is_first:
        asked = replace(asked, takes_constrained=False)
    places = [at for at, sample in enumerate(samples) if _is_asked_for(sample, asked, current)]
    return samples if len(places) == len(samples) else Chosen(samples, places)


def _is_asked_for(sample: Sample, asked: Asks, current: int) -> bool:
    is_free = asked.takes_constrained and sample.is_constrained and sample.version == current
    if asked.needs_ratio and not (sample.has_ratio or is_free):
        return False
    if sample.cut and not asked.takes_windows:
        return False
    if asked.max_staleness is not None and abs(current - sample.version) > asked.max_staleness:
        return False
    return asked.above is None or sample.reward > asked.above
