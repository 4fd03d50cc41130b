"""Budgets of a round: how far the policy may go, and which tasks it must not lose.

Pure. Three guards, each read off the rows that a step trains on, before its
update:

- KL to the parent, the version that the round starts from, in nats an answer
  (k3 over the answers whose logprobs under the parent are known). Beyond its
  budget the update at hand is dropped and the round ends with what it has.
  Off-policy estimates of a candidate stay honest only for small steps.
- KL to the base, for the whole life of a policy; the same way.
- A task whose successes become less likely than they were under the parent is
  being unlearned, as a rule by its failures: these teach nothing while it lasts.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

STEPS = 4  # a KL is a mean over the answers of so many steps
LEAST_SUCCESSES = 4  # of a task, before anything is said of it
KEPT = 0.9  # what a step's successes count for at the next one


@dataclass(frozen=True, slots=True)
class Limits:
    """In nats an answer; 0: none."""

    kl_to_parent: float = 0.0
    kl_to_base: float = 0.0
    task_fall: float = 0.0

    @property
    def needs_parent(self) -> bool:
        """Whether anything is held against the parent's logprobs."""
        return bool(self.kl_to_parent or self.task_fall)


@dataclass(frozen=True, slots=True)
class StepSums:
    """Of one optimizer step, over all its micro-batches and processes."""

    known: float  # answers whose logprobs under the parent are known
    kl_to_parent: float  # their sum, nats
    answers: float
    kl_to_base: float
    successes: Sequence[float]  # by task: those with an advantage above 0 that are known
    rises: Sequence[float]  # by task: how much likelier they are than under the parent, nats


@dataclass(slots=True)
class Ledger:
    """What was spent so far."""

    limits: Limits
    tasks: Sequence[str]
    _steps: deque[StepSums] = field(default_factory=lambda: deque(maxlen=STEPS))
    _successes: list[float] = field(default_factory=list)
    _rises: list[float] = field(default_factory=list)
    _seen: int = 0
    _closed: dict[int, str] = field(default_factory=dict)  # task -> what was first said of it

    def add(self, step: StepSums) -> None:
        """Count one step in."""
        self._seen += 1
        self._steps.append(step)
        before = self._successes or [0.0] * len(self.tasks)
        self._successes = [
            KEPT * old + new for old, new in zip(before, step.successes, strict=True)
        ]
        before = self._rises or [0.0] * len(self.tasks)
        self._rises = [KEPT * old + new for old, new in zip(before, step.rises, strict=True)]
        for task in self.closed:
            self._closed.setdefault(task, self._words(task))

    @property
    def kl_to_parent(self) -> float:
        known = sum(step.known for step in self._steps)
        return sum(step.kl_to_parent for step in self._steps) / known if known else 0.0

    @property
    def kl_to_base(self) -> float:
        answers = sum(step.answers for step in self._steps)
        return sum(step.kl_to_base for step in self._steps) / answers if answers else 0.0

    @property
    def is_base_used_up(self) -> bool:
        return 0 < self.limits.kl_to_base < self.kl_to_base

    @property
    def excess(self) -> str | None:
        """Which budget is used up, in words, or None."""
        limits = self.limits
        if self.is_base_used_up:
            return (
                f"the KL to the base model is {self.kl_to_base:.3g} nats an answer, above"
                f" trainer.kl_to_base_budget ({limits.kl_to_base:g})"
            )
        if limits.kl_to_parent and self.kl_to_parent > limits.kl_to_parent:
            return (
                f"the KL to the version before is {self.kl_to_parent:.3g} nats an answer, above"
                f" trainer.kl_budget ({limits.kl_to_parent:g})"
            )
        return None

    @property
    def closed(self) -> frozenset[int]:
        """Tasks whose failures teach nothing now."""
        if not self.limits.task_fall:
            return frozenset()
        return frozenset(
            task
            for task, count in enumerate(self._successes)
            if count >= LEAST_SUCCESSES and self._rise(task) < -self.limits.task_fall
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was said of tasks, for the run."""
        return tuple(self._closed.values())

    def state(self) -> dict[str, Any]:
        """All that was counted, for a checkpoint: JSON has it."""
        return {
            "steps": [asdict(step) for step in self._steps],
            "successes": self._successes,
            "rises": self._rises,
            "seen": self._seen,
            "closed": [[task, words] for task, words in self._closed.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint has, over the same rows."""
        self._steps.clear()
        self._steps.extend(StepSums(**step) for step in state["steps"])
        self._successes, self._rises = list(state["successes"]), list(state["rises"])
        self._seen = state["seen"]
        self._closed = dict(state["closed"])

    def _rise(self, task: int) -> float:
        return self._rises[task] / self._successes[task]

    def _words(self, task: int) -> str:
        return (
            f"from step {self._seen} on, failures of {self.tasks[task]} were left out while its"
            f" successes were less likely than before ({self._rise(task):.3g} nats an answer,"
            f" trainer.task_guard {self.limits.task_fall:g})"
        )
