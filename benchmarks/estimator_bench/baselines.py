"""Table 1: equal samples, single or in groups of eight, by what they are held against.

In the second world each task's rewards are shifted by a constant of its own, as
they are where tasks are judged by different metrics. Nothing else differs.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.estimator_bench.brain import Brain, accuracies, accuracy, answers
from benchmarks.estimator_bench.learner import Drill, Pupil, imitate, train
from benchmarks.estimator_bench.world import (
    POLICY,
    TASKS,
    Question,
    asked,
    trajectory,
    transition,
    vote,
)
from trainer.advantages.advantage import advantages_of, tracker_after
from trainer.advantages.baseline import Baseline
from trainer.advantages.tracker import Tracker
from trainer.batch.samples import Sample, Selection, samples_of
from trajectories.settings import TrainerSettings

WORTH = 0.25  # of a right answer; a wrong one is worth as much less than nothing
WORLDS = ("plain", "offsets")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of learning."""

    baseline: Baseline = "leave_one_out"
    negative_weight: float = 1.0
    group: int = 1
    is_imitation: bool = False


ARMS: Mapping[str, Arm] = {
    "per task, leave-one-out": Arm(),
    "the same, negatives x 0.25": Arm(negative_weight=0.25),
    "tracker": Arm("tracker"),
    "batch mean": Arm("batch"),
    "raw reward": Arm("none"),
    "groups of 8": Arm("group", group=8),
    "groups of 8, negatives x 0.25": Arm("group", 0.25, group=8),
    "SFT on rewards above 0": Arm(is_imitation=True),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is learned from."""

    rounds: int = 10
    samples: int = 512


def offsets(world: str) -> list[float]:
    """What is added to each task's rewards; all stay within [-1, 1]."""
    if world == "plain":
        return [0.0] * TASKS
    values = [-0.75 + 1.5 * n / (TASKS - 1) for n in range(TASKS)]
    random.Random("offsets").shuffle(values)
    return values


def run(world: str, arm: Arm, base: Brain, seed: int, size: Size) -> dict[str, object]:
    """Rounds of sampling and learning; accuracies before, after each, and by task at the end."""
    torch.manual_seed(1000 + seed)
    chance = random.Random(f"{world}:{seed}")
    pupil, tracker = Pupil.from_base(base), Tracker()
    settings = TrainerSettings(baseline=arm.baseline, negative_weight=arm.negative_weight)
    curve = [accuracy(pupil.brain)]
    for version in range(size.rounds):
        questions = asked(size.samples // arm.group, chance)
        samples = log_of(pupil.brain, questions * arm.group, version, offsets(world))
        if arm.is_imitation:
            good = [sample for sample in samples if sample.reward > 0]
            imitate(pupil, good, Drill(), seed=version)
        else:
            values = advantages_of(samples, settings, tracker=tracker, version=version)
            train(pupil, samples, values, Drill(), seed=version)
            tracker = tracker_after(samples, settings, tracker=tracker, version=version)
        curve.append(accuracy(pupil.brain))
    return {"curve": curve, "tasks": accuracies(pupil.brain)}


def log_of(
    brain: Brain, questions: list[Question], version: int, shifts: list[float], prefix: str = "s"
) -> list[Sample]:
    """Answers with their rewards as samples, by the way of records."""
    samples: list[Sample] = []
    selection = Selection(POLICY, version, 64, 4, needs_ratio=True)
    said = answers(brain, [question.prompt for question in questions])
    for number, (question, answer) in enumerate(zip(questions, said, strict=True)):
        name = f"{prefix}{version}-{number}"
        reward = shifts[question.task] + (WORTH if answer.tokens == question.right else -WORTH)
        call = transition(
            name, question.prompt, question.text, answer.tokens, answer.logprobs, version=version
        )
        record = trajectory(
            name,
            f"task {question.task}",
            [call],
            reward=reward,
            rewards=[vote(name, reward)],
        )
        samples += samples_of(record, selection)[0]
    return samples
