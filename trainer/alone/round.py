"""The round itself: from a file to a run directory, and from there to an adapter.

    OUT/adapter_model.safetensors, adapter_config.json    the adapter, as peft reads it
    OUT/model*.safetensors, config.json, tokenizer*       with full weights: the model
    OUT/metrics.json                                      what the round measured
    OUT/left_out.json                                     what was not learned from, by reason
    OUT/round/                                            order, rows, plan, log, checkpoints

Stopped or killed, the same command goes on from the last checkpoint, over the
rows that were found the first time. After a failure it begins anew.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from trainer.alone.order import Order, differences, in_writing
from trainer.alone.traffic import Traffic, TrafficError
from trainer.batch.batching import (
    Batch,
    Demand,
    Shortage,
    Sorting,
    caps_for,
    selection_for,
    shortages_of,
    write_batch,
)
from trainer.batch.samples import Selection
from trainer.delivery.publish import bring, published_files
from trainer.durable import sync_directory, sync_file, write_atomic
from trainer.runs import OPTIMIZER, PLAN, Plan, RoundResult, RunDirectory
from trainer.training import Training, last_words
from trajectories.errors import RatchetError
from trajectories.resources import PROBE, Kind
from trajectories.settings import Settings
from trajectories.store import TrajectoryRef

ROUND = "round"
ORDER = "order.json"  # below it: what was asked for when it was begun
METRICS, LEFT_OUT = "metrics.json", "left_out.json"
MAX_ATTEMPTS = 3


class RoundFailed(RatchetError):
    """No adapter came out: says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the file holds for a round."""

    batch: Batch
    shortages: list[Shortage]
    parent: int  # the version that the round starts from; 0: the base model
    bad: int  # lines that are no records
    errors: list[str]


def sort_file(
    order: Order, settings: Settings, directory: Path | None, advance: Callable[[], None]
) -> Found:
    """Sort the trajectories of a file; `advance` is called for each. Raises TrafficError.

    Rows wait in `directory`, or where temporary files go.
    """
    with Traffic(order.traffic) as traffic:
        checked = traffic.check()
        if checked.bad and not order.skips_bad:
            raise TrafficError(_in_words(order.traffic, checked.bad, checked.errors))
        parent = order.parent(checked.newest)
        selection = selection_for(settings, settings.trainer.algorithm, parent, order.agent)
        sorting = Sorting(selection, caps_for(settings), directory)
        found = traffic.trajectories(selection.composition, settings.policy)
        for trajectory in found:
            whose = trajectory.model_copy(update={"tenant": settings.policy_tenant})
            sorting.add(TrajectoryRef(whose.tenant, whose.id), whose)
            advance()
        if checked.bad and not order.skips_bad:
            raise TrafficError(_in_words(order.traffic, checked.bad, checked.errors))
        batch = sorting.finish()
        shortages = shortages_of(batch, demand_for(settings, order, selection), selection)
        return Found(batch, shortages, parent, checked.bad, checked.errors)


def demand_for(settings: Settings, order: Order, selection: Selection) -> Demand:
    """As much as any round needs; who labelled is not asked, since few files say it."""
    if order.is_forced:
        return Demand(1, 0)
    return Demand(settings.trainer.min_trajectories, settings.trainer.min_per_outcome)


def prepare(
    found: Found, order: Order, settings: Settings, out: Path, *, base: Path
) -> RunDirectory:
    """Put the rows and the plan on disk, and the order that the next start is held against."""
    directory = RunDirectory(out / ROUND)
    (directory.path / PLAN).unlink(missing_ok=True)  # of one that failed; without it, it is none
    shutil.rmtree(directory.path, ignore_errors=True)
    directory.path.mkdir(parents=True)
    write_atomic(directory.path / ORDER, orjson.dumps(in_writing(order, settings, base)))
    batch = found.batch
    plan = Plan(
        run_id=out.name,
        policy=settings.policy,
        algorithm=settings.trainer.algorithm,
        base_path=str(base),
        parent=found.parent,
        parent_path=str(order.adapter) if order.adapter else None,
        optimizer_path=moments_of(order.adapter),
        trainer=settings.trainer,
        refs=batch.refs,
        set_aside=batch.set_aside,
        excluded={reason.value: count for reason, count in batch.excluded.items()},
        reward_sources=dict(batch.reward_sources),
        labellers=dict(batch.labellers),
        capped=dict(batch.capped),
    )
    left_out = {
        "trajectories": plan.excluded,
        "calls": {reason.value: count for reason, count in batch.left_out.items()},
        "lines": found.bad,
    }
    write_atomic(out / LEFT_OUT, orjson.dumps(left_out, option=orjson.OPT_INDENT_2))
    write_batch(directory, batch, plan)
    return directory


def moments_of(adapter: Path | None) -> str | None:
    """The optimizer's moments, with the tracker beside them, that a round here left with it."""
    if adapter is None:
        return None
    path = RunDirectory(adapter / ROUND).trained / OPTIMIZER
    return str(path) if path.is_file() else None


def unfinished(out: Path, asked: Mapping[str, str]) -> RunDirectory | None:
    """The round that was begun here; None where there is none, or it failed.

    Raises RoundFailed where it is finished, or something else was asked of it.
    """
    if (out / METRICS).exists():
        raise RoundFailed(f"{out} holds an adapter already: name another directory")
    directory = RunDirectory(out / ROUND)
    if not (directory.path / PLAN).exists():
        return None
    result = directory.result()
    if result is not None and not result.is_trained:
        return None
    if changes := differences(orjson.loads((directory.path / ORDER).read_bytes()), asked):
        raise RoundFailed(
            f"the round in {out} was begun with something else: {changes}. Ask for the same to go"
            f" on with it, or remove {directory.path} to begin anew"
        )
    return directory


def train(
    directory: RunDirectory, training: Training, wait: Callable[[], bool]
) -> RoundResult | None:
    """Train until there is a result; None when `wait` says to stop. Raises RoundFailed."""
    for _ in range(MAX_ATTEMPTS):
        result = directory.result()
        if result is not None:
            return result
        training.start(directory)
        while (status := training.poll()) is None:
            if wait():
                training.stop()
                return None
    result = directory.result()
    if result is None:
        raise RoundFailed(
            f"the training process died {MAX_ATTEMPTS} times, last with status {status}:"
            f" {last_words(directory)}"
        )
    return result


def deliver(directory: RunDirectory, out: Path, result: RoundResult) -> None:
    """Put the adapter into `out`, then its metrics, which say that it is whole."""
    if not result.is_trained:
        raise RoundFailed(result.reason)
    kind = Kind(directory.plan().trainer.weights)
    for name in published_files(directory.trained, kind):
        if name == PROBE:
            continue  # for an engine that is given it
        beside = out / f".{name}.new"
        beside.unlink(missing_ok=True)
        bring(directory.trained / name, beside, is_large=kind is Kind.FULL)
        sync_file(beside)
        beside.replace(out / name)
    sync_directory(out)
    metrics = orjson.dumps(result.metrics, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_atomic(out / METRICS, metrics)


def _in_words(path: Path, bad: int, errors: list[str]) -> str:
    more = f"\n... and {bad - len(errors):,} more" if bad > len(errors) else ""
    return (
        f"{path} has {bad:,} lines that are no records (docs/traffic-format.md); mend them, or"
        " leave them out with --skip-bad:\n" + "\n".join(errors) + more
    )
