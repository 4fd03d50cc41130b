"""Table 4: two labels for a hundred sessions, late and lopsided, and a liar among the people.

Of a thousand sessions twenty belong to one person who labels each of them, wrongly.
The others speak unasked in 1.5 % of sessions that went wrong and in 0.3 % of those that
went right; one session in forty is asked about at random, and four in ten of those
answer. Labels come when the next thousand sessions have been held. A fair judge looks
at everything and is right nine times in ten, but takes six in ten of the answers
that are off by one for right ones; a crooked one takes 95 in a hundred of them for
right, and only 85 of those that are. A round waits for 64 labels, as by default.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.estimator_bench.brain import Brain, accuracies, accuracy, answers
from benchmarks.estimator_bench.learner import Drill, Pupil, train
from benchmarks.estimator_bench.world import (
    POLICY,
    Question,
    asked,
    is_off_by_one,
    trajectory,
    transition,
    vote,
)
from trainer.advantages.advantage import advantages_of
from trainer.batch.batching import sort_out
from trainer.batch.caps import Caps
from trainer.batch.samples import Selection
from trajectories.composition import compose
from trajectories.model import Reward, Trajectory
from trajectories.settings import TrainerSettings
from trajectories.store import TrajectoryRef

PEOPLE = 500
LIAR, LIAR_SHARE = "mallory", 0.02
WHEN_WRONG, WHEN_RIGHT = 0.015, 0.003  # how likely people are to speak unasked
ASK, ANSWERS = 0.025, 0.4
LEAST_LABELS = 64
FREE = frozenset({"grader", "checker", "silence"})  # verifiers of the operator's own


@dataclass(frozen=True, slots=True)
class Judge:
    """How often it is right, and how often it takes what is off by one for right."""

    right: float
    dazzled: float


FAIR = Judge(0.9, 0.6)
CROOKED = Judge(0.85, 0.95)  # it prefers one kind of mistake to what is right


@dataclass(frozen=True, slots=True)
class Voices:
    """Who is heard, and what is made of it."""

    is_told_all: bool = False  # every session is labelled, rightly and at once
    is_capped: bool = True
    is_silence_zero: bool = False
    has_people: bool = True
    judge: Judge | None = None
    settings: TrainerSettings = field(default_factory=TrainerSettings)
    epochs: int = 2


_RIGHT = TrainerSettings(missing="aipw", negative_weight=1.0)

ARMS: Mapping[str, Voices] = {
    "every session labelled, rightly and at once": Voices(is_told_all=True),
    "people, nobody capped": Voices(is_capped=False, epochs=16),
    "people, capped": Voices(epochs=16),
    "people, capped, silence counted as 0": Voices(is_silence_zero=True),
    "a fair judge, and people where they speak": Voices(judge=FAIR),
    "the same, put right by those asked (aipw)": Voices(judge=FAIR, settings=_RIGHT),
    "a crooked judge alone": Voices(judge=CROOKED, has_people=False),
    "a crooked judge, and people where they speak": Voices(judge=CROOKED),
    "a crooked judge, put right by those asked (aipw)": Voices(judge=CROOKED, settings=_RIGHT),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much traffic there is."""

    rounds: int = 30
    sessions: int = 1000


def run(voices: Voices, base: Brain, seed: int, size: Size) -> dict[str, object]:
    """Accuracies after each thousand sessions, and how many trajectories people had labelled."""
    torch.manual_seed(4000 + seed)
    chance = random.Random(f"missing:{seed}")
    pupil, version, labels = Pupil.from_base(base), 0, 0
    curve = [accuracy(pupil.brain)]
    waiting: list[Trajectory] = []  # labels are on their way
    pool: list[Trajectory] = []  # closed and scored, not used yet
    caps = Caps(uncapped=FREE) if voices.is_capped else Caps(share=1.0)
    for number in range(size.rounds):
        held = _hold(pupil.brain, asked(size.sessions, chance), number, version, voices, chance)
        arrived, waiting = (held, []) if voices.is_told_all else (waiting, held)
        pool += [record for record in arrived if record.reward is not None]
        labels += sum(_is_labelled(record) for record in arrived)
        selection = Selection(POLICY, version, 64, 4, needs_ratio=True)
        batch = sort_out(((TrajectoryRef("default", t.id), t) for t in pool), selection, caps)
        if batch.labelled >= min(LEAST_LABELS, size.sessions // 20):
            samples = list(batch.samples)
            values = advantages_of(samples, voices.settings)
            train(pupil, samples, values, Drill(epochs=voices.epochs), seed=number)
            version += 1
            left = set(batch.left_over)
            pool = [record for record in pool if f"default/{record.id}" in left]
        curve.append(accuracy(pupil.brain))
    return {"curve": curve, "tasks": accuracies(pupil.brain), "labels": labels, "versions": version}


def _is_labelled(record: Trajectory) -> bool:
    return any(reward.source.startswith("feedback:human") for reward in record.rewards)


def _hold(
    brain: Brain,
    questions: list[Question],
    number: int,
    version: int,
    voices: Voices,
    chance: random.Random,
) -> list[Trajectory]:
    """Sessions with all that will be said of them."""
    said = answers(brain, [question.prompt for question in questions])
    held = []
    for place, (question, answer) in enumerate(zip(questions, said, strict=True)):
        name = f"m{number}-{place}"
        is_right = answer.tokens == question.right
        is_asked = chance.random() < ASK
        rewards: list[Reward] = []
        who, value = _label(is_right, is_asked, chance)
        if voices.is_told_all:
            rewards.append(vote(name, 1.0 if is_right else -1.0, who="code:checker"))
        elif who is not None and voices.has_people:
            rewards.append(vote(name, value, who=f"human:{who}"))
        if voices.judge is not None:
            is_off = is_off_by_one(question, answer.tokens)
            errs = voices.judge.dazzled if is_off else 1 - voices.judge.right
            verdict = 1.0 if is_right != (chance.random() < errs) else -1.0
            rewards.append(vote(name, verdict, who="judge:grader"))
        if voices.is_silence_zero and not rewards:
            rewards.append(vote(name, 0.0, who="code:silence"))
        call = transition(
            name,
            question.prompt,
            question.text,
            answer.tokens,
            answer.logprobs,
            version=version,
            is_asked=is_asked,
            ask=ASK,
        )
        final = compose(rewards).final
        held.append(
            trajectory(name, f"task {question.task}", [call], reward=final, rewards=rewards)
        )
    return held


def _label(is_right: bool, is_asked: bool, chance: random.Random) -> tuple[str | None, float]:
    """Who says what of a session; nobody, mostly."""
    truth = 1.0 if is_right else -1.0
    if chance.random() < LIAR_SHARE:
        return LIAR, -truth
    speaks = ANSWERS if is_asked else WHEN_RIGHT if is_right else WHEN_WRONG
    who = f"user-{chance.randrange(PEOPLE)}"
    return (who, truth) if chance.random() < speaks else (None, 0.0)
