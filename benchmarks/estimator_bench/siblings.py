"""Table 6: little traffic, and further answers to some of its prompts, judged rightly.

A round has 64 sessions of users. Siblings are answers of the same version to a
quarter of their prompts, four each, or to all of them; what they are worth is
said as of everything else. They cost an engine that is idle, and no user.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.estimator_bench.baselines import log_of, offsets
from benchmarks.estimator_bench.brain import Brain, accuracies, accuracy
from benchmarks.estimator_bench.learner import Drill, Pupil, train
from benchmarks.estimator_bench.world import Question, asked
from trainer.advantages.advantage import advantages_of
from trainer.advantages.baseline import Baseline
from trainer.batch.samples import Sample
from trajectories.settings import TrainerSettings

WORLDS = ("plain", "offsets")
ANSWERS = 4  # siblings of a prompt


@dataclass(frozen=True, slots=True)
class Arm:
    """How many sessions there are, whose prompts are asked anew, and how they are compared."""

    baseline: Baseline = "leave_one_out"
    sessions: float = 1.0  # of those of the others
    share: float = 0.0  # of the sessions that get siblings


ARMS: Mapping[str, Arm] = {
    "users alone": Arm(),
    "twice the users": Arm(sessions=2.0),
    "siblings of a quarter, held against the task": Arm(share=0.25),
    "siblings of a quarter, as groups": Arm("group", share=0.25),
    "siblings of all, held against the task": Arm(share=1.0),
    "siblings of all, as groups": Arm("group", share=1.0),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is learned from."""

    rounds: int = 10
    sessions: int = 64


def run(world: str, arm: Arm, base: Brain, seed: int, size: Size) -> dict[str, object]:
    """Rounds of traffic, siblings and learning; accuracies before, after each, and by task."""
    torch.manual_seed(5000 + seed)
    chance = random.Random(f"siblings:{world}:{seed}")
    pupil = Pupil.from_base(base)
    settings = TrainerSettings(baseline=arm.baseline, negative_weight=1.0)
    curve = [accuracy(pupil.brain)]
    for version in range(size.rounds):
        questions = asked(round(size.sessions * arm.sessions), chance)
        users = log_of(pupil.brain, questions, version, offsets(world))
        count = round(len(users) * arm.share)
        samples = users + siblings(pupil.brain, questions[:count], users, version, world)
        train(pupil, samples, advantages_of(samples, settings), Drill(), seed=version)
        curve.append(accuracy(pupil.brain))
    return {"curve": curve, "tasks": accuracies(pupil.brain)}


def siblings(
    brain: Brain, questions: list[Question], users: list[Sample], version: int, world: str
) -> list[Sample]:
    """Further answers to what the first users asked."""
    if not questions:
        return []
    found = log_of(brain, questions * ANSWERS, version, offsets(world), prefix="r")
    parents = [sample.id.rpartition("/")[0] for sample in users[: len(questions)]] * ANSWERS
    return [
        sample.model_copy(update={"rollout": parent})
        for sample, parent in zip(found, parents, strict=True)
    ]
