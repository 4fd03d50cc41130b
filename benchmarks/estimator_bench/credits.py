"""Table 3: sessions of eight calls of which one decides, by how the reward is spread.

All calls ask the same kinds of questions, but only whether the deciding one was answered
rightly matters to the user: praise for the others is noise. The deciding call asks one of
a few questions, so that it recurs. The policy reads the latest question only, so
calls are short; what it was asked is the whole conversation.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from benchmarks.estimator_bench.brain import Brain, accuracy, answers
from benchmarks.estimator_bench.learner import Drill, Pupil, train
from benchmarks.estimator_bench.world import (
    POLICY,
    TRAFFIC,
    Question,
    trajectory,
    transition,
    vote,
)
from trainer.advantages.advantage import advantages_of
from trainer.advantages.credit import Estimator
from trainer.batch.samples import Sample, Selection, samples_of
from trajectories.settings import TrainerSettings

CALLS = 8
TARGET = 0.7  # accuracy
DRILL = Drill(learning_rate=5e-4)
ARMS: Sequence[Estimator] = ("identical", "discounted", "step", "stepgroup")


@dataclass(frozen=True, slots=True)
class World:
    """Where the deciding call stands, and what is said of what."""

    deciding: int  # which call, from 0
    is_call_voted: bool  # the vote is on that call; else on the whole session
    openings: int = 64  # different deciding questions


WORLDS: Mapping[str, World] = {
    "the first call decides, the session is voted on": World(0, False),
    "the first call decides, and is voted on": World(0, True),
    "the last call decides, the session is voted on": World(CALLS - 1, False),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is learned from."""

    rounds: int = 60
    sessions: int = 128


def run(world: World, credit: Estimator, base: Brain, seed: int, size: Size) -> dict[str, object]:
    """Rounds until deciding calls are right often enough; accuracies by round."""
    torch.manual_seed(3000 + seed)
    chance = random.Random(f"credit:{seed}")
    openings = chance.sample(TRAFFIC, world.openings)
    settings = TrainerSettings(credit=credit)
    pupil = Pupil.from_base(base)
    curve = [accuracy(pupil.brain)]
    for version in range(size.rounds):
        held = [
            [
                chance.choice(openings if step == world.deciding else TRAFFIC)
                for step in range(CALLS)
            ]
            for _ in range(size.sessions)
        ]
        samples = _log_of(pupil.brain, held, world, version)
        train(pupil, samples, advantages_of(samples, settings), DRILL, seed=version)
        curve.append(accuracy(pupil.brain))
        if curve[-1] >= TARGET:
            break
    return {"curve": curve, "sessions": _needed(curve, size.sessions)}


def _needed(curve: Sequence[float], sessions: int) -> float | None:
    """Sessions until the target was reached, between two rounds by a straight line."""
    for number, (before, after) in enumerate(pairwise(curve)):
        if after >= TARGET:
            return sessions * (number + (TARGET - before) / (after - before))
    return None


def _log_of(
    brain: Brain, held: Sequence[Sequence[Question]], world: World, version: int
) -> list[Sample]:
    prompts = [question.prompt for questions in held for question in questions]
    said = iter(answers(brain, prompts))
    selection = Selection(POLICY, version, 64, 4, needs_ratio=True)
    samples: list[Sample] = []
    for number, questions in enumerate(held):
        name, history, calls, is_right = f"c{version}-{number}", "", [], False
        for step, (question, answer) in enumerate(zip(questions, said, strict=False)):
            history += question.text
            calls.append(
                transition(
                    name,
                    question.prompt,
                    history,
                    answer.tokens,
                    answer.logprobs,
                    version=version,
                    step=step,
                )
            )
            history += f" -> {answer.tokens}; "
            if step == world.deciding:
                is_right = answer.tokens == question.right
        reward = 1.0 if is_right else -1.0
        target = calls[world.deciding].id if world.is_call_voted else None
        record = trajectory(
            name,
            f"task {questions[world.deciding].task}",
            calls,
            reward=reward,
            rewards=[vote(name, reward, transition_id=target)],
        )
        samples += samples_of(record, selection)[0]
    return samples
