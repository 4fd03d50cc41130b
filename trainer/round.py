"""One round of training, a process of its own: `python -m trainer.round RUN_DIR --parent PID`.

Reads batch.jsonl and plan.json, writes progress.json while it works, and
leaves `trained/` (weights, probes, optimizer) and result.json. Killed, it goes
on from its last checkpoint over the same rows. It knows neither Redis nor an
engine. A reason to fail for good goes into result.json; any other exception
is a crash, and the loop starts it again.
"""

import argparse
import gc
import logging
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers

from trainer import ranks
from trainer.advantages.advantage import tracker_after
from trainer.advantages.tracker import Tracker, recall
from trainer.algorithms.plugins import AlgorithmError, asks_of, find
from trainer.algorithms.protocol import Algorithm, NothingToLearn, Round
from trainer.algorithms.sequence import Leg, legs, plan_after, taken
from trainer.batch.samples import Sample
from trainer.callbacks import Divergence, ProgressFile
from trainer.delivery.probe import tolerance_for
from trainer.durable import write_atomic
from trainer.figures import finite, mean_reward, mean_staleness, summary
from trainer.orphan import die_with
from trainer.policy import (
    RoundRefused,
    TrainingError,
    check_finite,
    device_for,
    gaps,
    load_policy,
    load_reference,
    make_optimizer,
    save_policy,
)
from trainer.reporting import report
from trainer.runs import RESULT, Plan, RoundResult, RunDirectory
from trainer.stages import (
    COMPARING,
    LOADING,
    PREPARING,
    READING,
    SAVING,
    TRAINING,
    Stages,
)
from trajectories.errors import RatchetError

GAP_ROWS = 64

logger = logging.getLogger("trainer.round")


def main() -> int:
    """Train, and leave a result; 0 unless it crashed."""
    parser = argparse.ArgumentParser(prog="trainer.round")
    parser.add_argument("run", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="process id that must stay alive")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    directory = RunDirectory(arguments.run)
    try:
        metrics = train(directory)
        result = RoundResult(is_trained=True, metrics=metrics, notes=directory.notes())
    except (TrainingError, AlgorithmError, NothingToLearn) as error:
        logger.exception("the round failed")
        is_tried = not isinstance(error, (AlgorithmError, RoundRefused))
        result = RoundResult(is_trained=False, reason=str(error), is_tried=is_tried)
    if not ranks.is_first():
        return 0 if result.is_trained else ranks.status_of_follower(directory.path / RESULT)
    write_atomic(directory.path / RESULT, result.to_json())
    directory.clear(is_failed=not result.is_trained)
    return 0


def train(directory: RunDirectory) -> dict[str, float]:
    """All legs, from the first that is not over; returns the round's metrics."""
    plan, samples = directory.plan(), directory.samples()
    ranks.join(device_for(plan.trainer), directory.started())
    if plan.trainer.threads:
        torch.set_num_threads(plan.trainer.threads)
    started = time.monotonic()
    metrics: dict[str, float] = {}
    steps, before = 0.0, None
    parts = Stages(directory.path, is_writing=ranks.is_first())
    for leg in legs(plan, directory.path):
        found = leg.report()
        if found is None:
            found = train_leg(leg, plan_after(plan, before), samples, parts)
            if not leg.is_last:
                gc.collect()  # a trainer and its model are a circle; the next needs the room
        steps += found["steps"]
        metrics |= leg.named(found)
        metrics |= {name: found[name] for name in ("behaviour_gap", "drift") if name in found}
        before = leg
    if not steps:
        raise NothingToLearn(f"none of {plan.algorithm} found anything to learn from")
    return {
        **metrics,
        "reward_mean": mean_reward(samples),
        "staleness": mean_staleness(samples, plan.parent),
        "steps": steps,
        "samples": float(len(samples)),
        "trajectories": float(len({sample.trajectory for sample in samples})),
        "tokens": float(sum(len(sample.token_ids) for sample in samples)),
        **parts.metrics,
        "train_seconds": time.monotonic() - started,
    }


def train_leg(leg: Leg, plan: Plan, samples: Sequence[Sample], parts: Stages) -> dict[str, float]:
    """Load, check, train, save; returns the leg's metrics."""
    settings = plan.trainer
    algorithm = find(leg.algorithm)
    transformers.set_seed(settings.seed)
    with parts.stage(LOADING):
        model, tokenizer = load_policy(plan)
    with parts.stage(READING):
        own = (s for s in samples if s.version == plan.parent and (s.has_ratio or s.is_constrained))
        fresh = list(islice(own, GAP_ROWS))
    metrics: dict[str, float] = {}
    if leg.number == 0:  # the only one that starts as what sampled the fresh rows
        with parts.stage(COMPARING):
            kind = settings.dtype if settings.quantization == "none" else settings.quantization
            gap = check_gap(gaps(model, fresh), kind, settings.probe_tolerance)
        metrics["behaviour_gap"] = gap
    optimizer = make_optimizer(model, settings, plan.optimizer_path)
    is_whole = settings.weights == "full"
    round_ = Round(
        plan=plan,
        model=model,
        tokenizer=tokenizer,
        samples=taken(samples, algorithm.asks(settings), plan.parent, is_first=leg.number == 0),
        output=leg.checkpoints,
        optimizer=optimizer,
        callbacks=(ProgressFile(leg, parts), Divergence()),
        load_base=(lambda: load_reference(plan)) if is_whole else None,
    )
    metrics |= {"steps": 0.0, "samples": float(len(round_.samples))}
    try:
        with parts.stage(PREPARING):
            trainer = make_trainer(algorithm, round_)
            notes = RunDirectory(leg.run).add_notes
            report(trainer, *leg.reported(plan), lambda note: notes([note]))
    except NothingToLearn as error:
        if leg.total == 1:
            raise
        logger.warning("%s was passed over: %s", leg.algorithm, error)
    else:
        with parts.stage(TRAINING):
            trainer.train(resume_from_checkpoint=last_checkpoint(leg.checkpoints))
        check_finite(model)
        if ranks.is_first():
            RunDirectory(leg.run).add_notes(getattr(trainer, "notes", ()))
        metrics |= summary(trainer.state.log_history)
        metrics["steps"] = float(trainer.state.global_step)
    with parts.stage(COMPARING):
        drift = gaps(model, fresh)
    metrics["drift"] = sum(drift) / len(drift) if drift else 0.0
    metrics = finite(metrics)
    if ranks.is_first():
        leg.write_report(metrics)
    with parts.stage(SAVING):
        save_policy(
            leg.trained,
            model=model,
            samples=samples,
            optimizer=optimizer,
            dtype=settings.dtype,
            tracker=remember(leg, plan, samples),
            full_base=plan.base_path if settings.quantization != "none" else None,
            whole=RunDirectory(leg.run).plan() if is_whole else None,  # whatever leg it is
        )
    return metrics


def remember(leg: Leg, plan: Plan, samples: Sequence[Sample]) -> Tracker | None:
    """What the version in the making knows of its tasks; None where nothing is tracked."""
    settings = plan.trainer
    if settings.baseline != "tracker":
        return None
    before = recall(plan.optimizer_path)
    if not leg.is_last:
        return before  # the round counts once
    if asks_of(plan.algorithm, settings).above is not None:
        return before  # of successes alone nothing is learned about what a task is worth
    return tracker_after(samples, settings, tracker=before, version=plan.parent)


def check_gap(differences: Sequence[float], kind: str, configured: float) -> float:
    """The largest step-0 difference to what the engine recorded; refuses one that is too large.

    Before the first step the trainer's policy IS the version that sampled the
    fresh rows. In bfloat16 and in four bits single rare tokens differ a lot, so there the mean
    is held against the limit, and the largest against ten times as much.
    """
    if not differences:
        return 0.0
    largest, mean = max(differences), sum(differences) / len(differences)
    limit = tolerance_for(kind, configured)
    is_within = largest <= limit if kind == "float32" else mean <= limit and largest <= 10 * limit
    if not is_within:
        raise TrainingError(
            f"the trainer's logprobs differ from the recorded ones by up to {largest:.3g} nats"
            f" ({mean:.3g} on average, limit {limit:g}): the log was tokenised again, the base"
            " model is another one, or the engine returns processed logprobs"
        )
    return largest


def make_trainer(algorithm: Algorithm, round_: Round) -> Any:
    """The trainer that the algorithm makes; whatever it raises becomes a reason to fail."""
    try:
        trainer = algorithm.make_trainer(round_)
    except RatchetError:
        raise
    except Exception as error:  # a plug-in's own: it would raise it again at the next attempt
        logger.exception("no trainer was made")
        raise AlgorithmError(
            f"the algorithm {algorithm.name!r} made no trainer: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(trainer, transformers.Trainer):
        kind = type(trainer).__name__
        raise AlgorithmError(
            f"the algorithm {algorithm.name!r} made no trainer: it returned a {kind}, which is no"
            " transformers.Trainer"
        )
    return trainer


def last_checkpoint(checkpoints: Path) -> str | None:
    """The newest whole checkpoint: its trainer_state.json is written last."""
    whole = [path.parent for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return str(newest) if newest else None


if __name__ == "__main__":
    sys.exit(main())
