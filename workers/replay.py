"""Replay: every reward computed anew with the settings of now, over Redis and the archive.

A pure function of what is known: done twice it gives the same. What is in
Redis is written through the store, what is only in the archive as a new
edition there.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from redis import Redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from trajectories.archive import Archive, Archived, Filters, Place, Writer
from trajectories.archive.erasing import erase_forgotten
from trajectories.archive.merged import scan
from trajectories.connection import connect
from trajectories.model import Reward
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef
from workers.jobs import Scorer

SEAL_BYTES = 256 << 20  # of new editions, before compression


@dataclass(slots=True)
class Mean:
    """A mean, rounded so that it does not depend on the order of what it is of."""

    count: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    @property
    def value(self) -> float | None:
        return round(self.total / self.count, 9) if self.count else None


@dataclass(slots=True)
class Report:
    """What a replay found."""

    trajectories: int = 0
    transitions: int = 0
    changed: int = 0  # another final reward
    rewritten: int = 0  # other rewards, whatever became of the final one
    before: Mean = field(default_factory=Mean)
    after: Mean = field(default_factory=Mean)
    fired_before: Counter[str] = field(default_factory=Counter)
    fired_after: Counter[str] = field(default_factory=Counter)
    sums_before: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))
    sums_after: dict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))

    def note(self, record: Archived, rewards: Sequence[Reward], final: float | None) -> bool:
        """Count one trajectory of users; whether anything about one is other than before."""
        trajectory = record.trajectory
        is_other = final != trajectory.reward or _plain(rewards) != _plain(trajectory.rewards)
        if trajectory.rollout is not None:
            return is_other
        self.trajectories += 1
        self.transitions += len(trajectory.transitions)
        self.changed += final != trajectory.reward
        for value, mean in ((trajectory.reward, self.before), (final, self.after)):
            if value is not None:
                mean.add(value)
        for entries, fired, sums in (
            (trajectory.rewards, self.fired_before, self.sums_before),
            (rewards, self.fired_after, self.sums_after),
        ):
            for reward in entries:
                name = signal_of(reward)
                fired[name] += 1
                sums[name].add(reward.value)
        self.rewritten += is_other
        return is_other

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        names = sorted({*self.fired_before, *self.fired_after})
        return {
            "trajectories": self.trajectories,
            "transitions": self.transitions,
            "changed": self.changed,
            "rewritten": self.rewritten,
            "rewarded_before": self.before.count,
            "rewarded_after": self.after.count,
            "mean_before": self.before.value,
            "mean_after": self.after.value,
            "signals": {
                name: {
                    "before": self.fired_before[name],
                    "after": self.fired_after[name],
                    "mean_before": self.sums_before[name].value,
                    "mean_after": self.sums_after[name].value,
                }
                for name in names
            },
        }


def signal_of(reward: Reward) -> str:
    """`air:truncated`; of a vote its kind, not its giver: `feedback:human`."""
    return ":".join(reward.source.split(":")[:2])


def replay(
    redis: Redis,
    place: Place,
    scorer: Scorer,
    filters: Filters,
    *,
    is_written: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Compute again what `filters` let through, and keep it if `is_written`."""
    store, archive = Store(redis), Archive(place, look_seconds=float("inf"))
    report = Report()
    writer = Writer.with_new_fence(place, redis) if is_written else None
    try:
        for record, is_hot in scan(store, archive, filters):
            rewards, outcome = scorer.compute(record.scorable)
            if report.note(record, rewards, outcome.final) and writer is not None:
                if is_hot:
                    scorer.score(store, record.ref)
                else:
                    writer.add(_again(record, rewards, outcome))
                    if writer.nbytes > SEAL_BYTES:
                        _seal(writer, place, redis)
            advance()
        if writer is not None:
            _seal(writer, place, redis)
    finally:
        if writer is not None:
            writer.discard()
    return report


def _again(record: Archived, rewards: Sequence[Reward], outcome: Any) -> Archived:
    """The next edition of a trajectory that only the archive has."""
    trajectory = record.trajectory.model_copy(
        update={
            "rewards": tuple(sorted(rewards, key=lambda reward: reward.id)),
            "reward": outcome.final,
            "breakdown": None if outcome.final is None else outcome.breakdown,
        }
    )
    return replace(
        record,
        trajectory=trajectory,
        is_labelled=outcome.is_labelled and outcome.final is not None,
        edition=record.edition + 1,
    )


def _seal(writer: Writer, place: Place, redis: Redis) -> None:
    """Seal new editions, but keep none of what was forgotten since they were read."""
    sealed: list[TrajectoryRef] = []
    try:
        for refs in writer.seal():
            sealed += [ref for ref, _ in refs]
    finally:
        erase_forgotten(place, redis, Archive(place), sealed)


def _plain(rewards: Sequence[Reward]) -> list[tuple[str, float]]:
    return sorted((reward.id, reward.value) for reward in rewards)


def table_of(report: Report, *, is_written: bool) -> Table:
    """What changed, for people."""
    figures = report.figures()
    title = f"{report.trajectories:,} trajectories, {report.changed:,} with another reward"
    title += "; written" if is_written else "; nothing was written (--write does)"
    table = Table(title=title, title_justify="left")
    for column in ("", "count before", "after", "mean before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(
        "final reward",
        f"{report.before.count:,}",
        f"{report.after.count:,}",
        _signed(report.before.value),
        _signed(report.after.value),
        end_section=True,
    )
    for name, entry in figures["signals"].items():
        table.add_row(
            name,
            f"{entry['before']:,}",
            f"{entry['after']:,}",
            _signed(entry["mean_before"]),
            _signed(entry["mean_after"]),
        )
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def options() -> argparse.ArgumentParser:
    """What `python -m workers replay` takes."""
    parser = argparse.ArgumentParser(prog="python -m workers replay", description=__doc__)
    parser.add_argument("--since", type=float, help="unix seconds")
    parser.add_argument("--until", type=float, help="unix seconds")
    parser.add_argument("--agent")
    parser.add_argument("--tenant")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser


def run_replay(settings: Settings, arguments: Sequence[str]) -> int:
    """Replay and show it; the exit status."""
    given = options().parse_args(arguments)
    filters = Filters(since=given.since, until=given.until, agent=given.agent, tenant=given.tenant)
    console = Console(stderr=True, highlight=False)
    began = time.monotonic()
    with _progress(console) as progress:
        shown = progress.add_task("trajectories", total=None)
        report = replay(
            connect(settings.redis),
            Place(settings.archive_url),
            Scorer.from_settings(
                settings.rewards,
                settings.agents,
                tenants=settings.tenants_of_policies(),
            ),
            filters,
            is_written=given.write,
            advance=lambda: progress.advance(shown),
        )
    Console(highlight=False).print(table_of(report, is_written=given.write))
    if given.json is not None:
        seconds = {"seconds": time.monotonic() - began}
        given.json.write_bytes(orjson.dumps({**report.figures(), **seconds}))
    return 0


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
