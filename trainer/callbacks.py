"""What looks on while a round trains: how far it is, and whether its numbers are still finite."""

import math
import time
from typing import Any

import transformers

from trainer.algorithms.sequence import Leg
from trainer.policy import TrainingError
from trainer.stages import TRAINING, Stages

PROGRESS_SECONDS = 0.5


class ProgressFile(transformers.TrainerCallback):  # type: ignore[misc]
    """Says which step it is for the status, at most twice a second; legs count alike."""

    def __init__(self, leg: Leg, parts: Stages) -> None:
        self._leg = leg
        self._parts = parts
        self._written = float("-inf")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.monotonic()
        if now - self._written < PROGRESS_SECONDS and state.global_step < state.max_steps:
            return
        self._written = now
        done = self._leg.number * state.max_steps + state.global_step
        self._parts.show(TRAINING, done, self._leg.total * state.max_steps)


class Divergence(transformers.TrainerCallback):  # type: ignore[misc]
    """Ends the round at the first loss or gradient that is NaN or infinite."""

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(float(value)):
                raise TrainingError(
                    f"training diverged at step {state.global_step}: {name} is {value}"
                )
