"""Rounds of learning from sessions: our rewards, samples and trainer process, nothing faked."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.air_bench.sampling import Sampler
from benchmarks.air_bench.sessions import POLICY, Session, hold
from ratchet.demo.questions import Split, stream_questions
from ratchet.demo.users import Crowd, Habits, Thumb
from trainer.batch.samples import Sample, Selection, samples_of
from trainer.durable import write_atomic
from trainer.runs import BATCH, PLAN, Plan, RunDirectory
from trajectories.model import Feedback
from trajectories.settings import RewardSettings, TrainerSettings
from trajectories.store import Scorable
from workers.jobs import Scorer

LEAST_SAMPLES = 4  # of a round
ARMS = {
    "votes": (True, 0.0),  # (do thumbs count?, air_weight)
    "votes and AIR": (True, 1.0),
    "votes and a third of AIR": (True, 1 / 3),
    "AIR alone": (False, 1.0),
}


@dataclass(slots=True)
class Held:
    """What a version does with questions that it was never asked."""

    accuracy: float
    valid_first_calls: float
    calls_per_session: float
    tool_use: float


@dataclass(slots=True)
class Result:
    """One arm with one seed."""

    arm: str
    seed: int
    rounds: int
    sessions: int
    share: float  # of sessions that get a thumb, at most
    thumbs: int = 0
    rewarded: list[int] = field(default_factory=list)  # trajectories of each round
    fired: dict[str, int] = field(default_factory=dict)
    held_out: list[Held] = field(default_factory=list)  # the base first, then each version
    ended_early: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_arm(
    arm: str,
    seed: int,
    *,
    model: Path,
    directory: Path,
    rounds: int,
    sessions: int,
    share: float,
    held_out: int,
) -> Result:
    """Traffic, rewards and training by turns; each version is measured on `held_out` questions."""
    started = time.monotonic()
    is_voted, air_weight = ARMS[arm]
    result = Result(arm, seed, rounds, sessions, share)
    questions = stream_questions(Split.TRAFFIC, seed)
    crowd = Crowd(random.Random(f"crowd:{seed}"), habits_of(share))
    scorer = Scorer.from_settings(RewardSettings(air_weight=air_weight))
    fired: Counter[str] = Counter()
    adapter: Path | None = None
    for version in range(rounds + 1):
        sampler = Sampler(model, adapter, seed=1000 * seed + version)
        result.held_out.append(measure(sampler, seed, held_out))
        print(f"{arm}, seed {seed}, version {version}: {result.held_out[-1]}", flush=True)
        if version == rounds:
            break
        held = hold(sampler, questions, sessions, version=version, prefix=f"s{version}")
        samples: list[Sample] = []
        for session in held:
            samples += _learn_from(session, crowd, scorer, is_voted, version, fired)
        result.rewarded.append(len({sample.trajectory for sample in samples}))
        plan = _plan(model, adapter, version, seed)
        trained = train(directory / f"round-{version}", plan, samples)
        if trained is None:
            result.ended_early = f"nothing to learn from after {version} rounds"
            break
        adapter = trained
    result.thumbs, result.fired = crowd.thumbs, dict(fired)
    result.seconds = round(time.monotonic() - started, 1)
    return result


def habits_of(share: float) -> Habits:
    """The demo's people, more or less talkative: at most `share` of sessions get a thumb."""
    usual = Habits()
    scale = share / usual.cap
    return Habits(
        speaks_when_wrong=scale * usual.speaks_when_wrong,
        speaks_when_right=scale * usual.speaks_when_right,
        slips=usual.slips,
        cap=share,
    )


def measure(sampler: Sampler, seed: int, count: int) -> Held:
    """Held-out questions at the temperature of the traffic; the same for every version and arm."""
    questions = stream_questions(Split.HELD_OUT, seed)
    held = hold(sampler, questions, count, version=0, prefix="held")
    return Held(
        accuracy=sum(session.is_right for session in held) / count,
        valid_first_calls=sum(session.has_valid_first_call for session in held) / count,
        calls_per_session=sum(len(session.transitions) for session in held) / count,
        tool_use=sum(bool(session.first_calls) for session in held) / count,
    )


def _learn_from(
    session: Session,
    crowd: Crowd,
    scorer: Scorer,
    is_voted: bool,
    version: int,
    fired: Counter[str],
) -> list[Sample]:
    """A session's samples, after its user and AIR have spoken; none where nobody did."""
    thumb = crowd.react(session.is_right)
    trajectory = session.trajectory()
    votes = (_vote(session, thumb),) if thumb is not None and is_voted else ()
    rewards, outcome = scorer.compute(Scorable(trajectory, votes, 1))
    fired.update(reward.name for reward in rewards if reward.source.startswith("air:"))
    update = {"rewards": tuple(rewards), "reward": outcome.final}
    selection = Selection(POLICY, version, 4096, 4, needs_ratio=True)
    samples, _ = samples_of(trajectory.model_copy(update=update), selection)
    return samples


def _vote(session: Session, thumb: Thumb) -> Feedback:
    return Feedback(
        id=f"fb-{session.name}",
        identity=session.name,
        trajectory_id=session.name,
        reward=1.0 if thumb is Thumb.UP else -1.0,
        received_at=2.0,
    )


def _plan(model: Path, adapter: Path | None, version: int, seed: int) -> Plan:
    """A round with the demo's own numbers (ratchet/demo/world.py)."""
    return Plan(
        run_id=f"run_{version}",
        policy=POLICY,
        algorithm="grpo",
        base_path=str(model),
        parent=version,
        parent_path=str(adapter) if adapter else None,
        optimizer_path=str(adapter / "optimizer.pt") if adapter else None,
        trainer=TrainerSettings(
            epochs=6,
            learning_rate=1e-3,
            batch_size=32,
            rank=16,
            alpha=32,
            negative_weight=0.1,
            threads=1,
            device="cpu",
            seed=seed,
        ),
        refs=(),
    )


def train(directory: Path, plan: Plan, samples: list[Sample]) -> Path | None:
    """The trainer's own process over the round; the adapter, or None with too few rewards."""
    if len(samples) < LEAST_SAMPLES:
        return None
    directory.mkdir(parents=True)
    write_atomic(directory / PLAN, plan.to_json())
    write_atomic(directory / BATCH, b"".join(sample.to_json() + b"\n" for sample in samples))
    command = [sys.executable, "-m", "trainer.round", str(directory), "--parent", str(os.getpid())]
    with (directory / "round.log").open("wb") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    run = RunDirectory(directory)
    found = run.result()
    if found is None or not found.is_trained:
        raise RuntimeError(f"the round in {directory} failed: {found and found.reason}")
    return run.trained
