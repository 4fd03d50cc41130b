"""The world: eight kinds of questions about three digits, answered by a tiny transformer.

A question is a task and three digits, an answer three digits and an end. What is right
is a rule of the task's. The policy is brought up on a mix in which between a fifth and three
fifths of a task's answers are right; the others are off by one, are another task's
answers, noise, or too short. So it knows what is right, and has to learn to prefer it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trajectories.model import Choice, Reward, Sampling, Trajectory, Transition

POLICY = "policy"
END, PAD = 10, 11
FIRST_TASK = 12
TASKS = 8
VOCABULARY = FIRST_TASK + TASKS + 4
ANSWER_TOKENS = 4
HELD_OUT = 5  # every fifth question is never asked in traffic

Digits = tuple[int, int, int]
_RULES: tuple[Callable[[int, int, int], Digits], ...] = (
    lambda a, b, c: (a, b, c),
    lambda a, b, c: (c, b, a),
    lambda a, b, c: (b, c, a),
    lambda a, b, c: (a, a, b),
    lambda a, b, c: (a + 1, b, c),
    lambda a, b, c: (a, b + 1, c),
    lambda a, b, c: (c, a + 1, b),
    lambda a, b, c: (b, a, c + 1),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A task and its digits."""

    task: int
    digits: Digits

    @property
    def prompt(self) -> tuple[int, ...]:
        return (FIRST_TASK + self.task, *self.digits)

    @property
    def right(self) -> tuple[int, ...]:
        """The only right answer."""
        return (*_answer(self.task, self.digits), END)

    @property
    def text(self) -> str:
        return f"task {self.task}: {' '.join(map(str, self.digits))}"

    @property
    def is_held_out(self) -> bool:
        a, b, c = self.digits
        return (31 * a + 17 * b + 7 * c + self.task) % HELD_OUT == 0


def _answer(task: int, digits: Digits) -> Digits:
    a, b, c = _RULES[task % TASKS](*digits)
    return a % 10, b % 10, c % 10


ALL = tuple(
    Question(task, (n // 100, n // 10 % 10, n % 10)) for task in range(TASKS) for n in range(1000)
)
TRAFFIC = tuple(question for question in ALL if not question.is_held_out)
EXAM = tuple(question for question in ALL if question.is_held_out)


def right_share(task: int) -> float:
    """How much of the upbringing was right: tasks are not equally hard."""
    return 0.2 + 0.4 * task / (TASKS - 1)


def lesson(question: Question, chance: random.Random) -> tuple[int, ...]:
    """An answer as the policy's upbringing showed it."""
    if chance.random() < right_share(question.task):
        return question.right
    kind = chance.random()
    a, b, c = _answer(question.task, question.digits)
    if kind < 0.5:
        return (a, b, (c + 1) % 10, END)
    if kind < 0.8:
        return (*_answer(question.task + 1, question.digits), END)
    if kind < 0.95:
        return (*(chance.randrange(10) for _ in range(3)), END)
    return (a, b, END)


def is_off_by_one(question: Question, tokens: Sequence[int]) -> bool:
    """The commonest mistake, and one that looks right at a glance."""
    a, b, c = _answer(question.task, question.digits)
    return tuple(tokens) == (a, b, (c + 1) % 10, END)


def asked(count: int, chance: random.Random) -> list[Question]:
    """Questions of the traffic."""
    return [chance.choice(TRAFFIC) for _ in range(count)]


def transition(
    name: str,
    prompt: tuple[int, ...],
    text: str,
    tokens: tuple[int, ...],
    logprobs: tuple[float, ...],
    *,
    version: int,
    step: int = 0,
    is_asked: bool = False,
    ask: float | None = None,
) -> Transition:
    """One answered call, as the gateway records it."""
    return Transition(
        id=f"{name}/{step}",
        trajectory_id=name,
        session_id=name,
        session_source="body",
        gateway="bench",
        started_at=float(step),
        latency_seconds=0.1,
        request={"messages": [{"role": "user", "content": text}]},
        policy=POLICY,
        policy_version=version,
        model=POLICY,
        sampling=Sampling(temperature=1.0),
        prompt_token_ids=prompt,
        choices=(Choice(finish_reason="stop", token_ids=tokens, logprobs=logprobs),),
        ask=ask,
        is_asked=is_asked,
    )


def trajectory(
    name: str,
    task: str,
    transitions: Sequence[Transition],
    *,
    reward: float | None,
    rewards: Sequence[Reward] = (),
) -> Trajectory:
    """A closed session, as the store holds it once it is scored."""
    return Trajectory(
        id=name,
        policy=POLICY,
        task=task,
        started_at=0.0,
        updated_at=1.0,
        is_closed=True,
        transitions=tuple(transitions),
        reward=reward,
        rewards=tuple(rewards),
    )


def vote(
    trajectory_id: str,
    value: float,
    *,
    who: str = "human:ann",
    transition_id: str | None = None,
    source: str = "feedback",
) -> Reward:
    """What somebody said of a session, or of one call of it."""
    return Reward(
        id=f"rw-{trajectory_id}-{transition_id}-{who}",
        trajectory_id=trajectory_id,
        transition_id=transition_id,
        name="reward",
        source=f"{source}:{who}",
        value=value,
    )
