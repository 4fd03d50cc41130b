"""What each step is told to: TensorBoard, MLflow or W&B, by the callbacks that TRL itself uses.

A round's name there is its run id, in an experiment or project named after the
policy. Nothing of a prompt or an answer is told, only what the trainer logs.
TensorBoard's files lie in the run's directory, `reports/`; the other two have
their own variables for where they are (MLFLOW_TRACKING_URI, WANDB_BASE_URL).
Whatever fails there costs the round its reports, and nothing else.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers.integrations import get_reporting_integration_callbacks

from trainer import ranks
from trainer.runs import LOG, Plan

REPORTS = "reports"  # in the run's directory

logger = logging.getLogger(__name__)


def report(trainer: Any, plan: Plan, run: Path, note: Callable[[str], None]) -> None:
    """Have `trainer` tell those that `trainer.report_to` names; `note` hears who cannot be told."""
    if not plan.trainer.report_to:
        return
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / REPORTS)
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", plan.policy)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a round waits for it
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("WANDB_PROJECT", plan.policy)
    os.environ.setdefault("WANDB_DIR", str(run))
    trainer.args.run_name = plan.run_id
    reporters = Reporters(note)
    for name in plan.trainer.report_to:
        reporters.add(name)
    trainer.add_callback(reporters)


class Reporters(transformers.TrainerCallback):  # type: ignore[misc]
    """All that are told. One that fails is told no more: the round does not depend on it."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._told: dict[str, Any] = {}

    def add(self, name: str) -> None:
        """Tell `name`, too, by the callback that transformers has for it."""
        try:
            (self._told[name],) = (make() for make in get_reporting_integration_callbacks([name]))
        except Exception as error:  # whatever its package does where it is broken or missing
            self._drop(name, error)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_train_begin", args, state, control, **more)

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_log", args, state, control, **more)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_save", args, state, control, **more)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tell("on_train_end", args, state, control, **more)

    def _tell(self, event: str, *arguments: Any, **more: Any) -> None:
        for name, callback in list(self._told.items()):
            try:
                getattr(callback, event)(*arguments, **more)
            except Exception as error:  # a server that is away, a full disk, a login
                del self._told[name]
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        logger.error("%s is told no more of this round", name, exc_info=error)
        if ranks.is_first():
            # What it says may hold an address with a password in it: that stays in the log.
            self._note(f"{name} was not told of all steps ({type(error).__name__}, see {LOG})")
