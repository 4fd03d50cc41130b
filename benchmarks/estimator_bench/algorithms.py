"""Table 5: the algorithms at equal sessions, where questions are asked once, and where twice.

Only what was asked again makes pairs for DPO. In the third world each task's
rewards are shifted by a constant of its own, as in the first table.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from benchmarks.estimator_bench.baselines import log_of, offsets
from benchmarks.estimator_bench.brain import Brain, accuracies, accuracy
from benchmarks.estimator_bench.learner import Drill, Pupil, imitate, train
from benchmarks.estimator_bench.preferences import judge, prefer
from benchmarks.estimator_bench.world import asked
from trainer.advantages.advantage import advantages_of
from trainer.batch.samples import Sample
from trajectories.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Arm:
    """What a round runs, one after the other."""

    legs: tuple[str, ...]
    rate: float = 1.0  # times the learning rate of the others
    negative_weight: float = 0.25  # GRPO's default


@dataclass(frozen=True, slots=True)
class World:
    """How often each question is asked, and whether tasks are judged by different metrics."""

    times: int = 1
    shifts: str = "plain"


WORLDS: Mapping[str, World] = {
    "once": World(),
    "twice": World(2),
    "twice, offsets": World(2, "offsets"),
}
ARMS: Mapping[str, Arm] = {
    "sft": Arm(("sft",)),
    "kto": Arm(("kto",)),
    "kto, half the learning rate": Arm(("kto",), 0.5),
    "kto, twice the learning rate": Arm(("kto",), 2.0),
    "dpo": Arm(("dpo",)),
    "dpo, half the learning rate": Arm(("dpo",), 0.5),
    "grpo": Arm(("grpo",)),
    "grpo, negatives in full": Arm(("grpo",), negative_weight=1.0),
    "sft, then grpo": Arm(("sft", "grpo")),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is learned from."""

    rounds: int = 10
    sessions: int = 512


def run(world: World, arm: Arm, base: Brain, seed: int, size: Size) -> dict[str, object]:
    """Accuracies before and after each round, by task at the end, and pairs in a round."""
    torch.manual_seed(5000 + seed)
    chance = random.Random(f"algorithms:{world.times}:{seed}")
    pupil = Pupil.from_base(base)
    curve, pairs = [accuracy(pupil.brain)], 0
    for version in range(size.rounds):
        questions = asked(size.sessions // world.times, chance)
        samples = log_of(pupil.brain, questions * world.times, version, offsets(world.shifts))
        for leg in arm.legs:
            pairs += learn(leg, pupil, samples, arm, seed=version)
        curve.append(accuracy(pupil.brain))
    return {"curve": curve, "tasks": accuracies(pupil.brain), "pairs": pairs / size.rounds}


def learn(leg: str, pupil: Pupil, samples: list[Sample], arm: Arm, seed: int) -> int:
    """One leg of a round; how many pairs it learned from."""
    drill = Drill()
    drill = replace(drill, learning_rate=drill.learning_rate * arm.rate)
    if leg == "sft":
        imitate(pupil, [sample for sample in samples if sample.reward > 0], drill, seed)
    elif leg == "kto":
        judge(pupil, samples, drill, seed)
    elif leg == "dpo":
        return prefer(pupil, samples, drill, seed)
    else:
        settings = TrainerSettings(negative_weight=arm.negative_weight)
        train(pupil, samples, advantages_of(samples, settings), drill, seed)
    return 0
