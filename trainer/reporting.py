"""What each step is told to: TensorBoard, MLflow or W&B, by the callbacks that TRL itself uses.

A round's name there is its run id, in an experiment or project named after the
policy. Nothing of a prompt or an answer is told, only what the trainer logs.
TensorBoard's files lie in the run's directory, `reports/`; the other two have
their own variables for where they are (MLFLOW_TRACKING_URI, WANDB_BASE_URL).
"""

import os
from pathlib import Path
from typing import Any

from transformers.integrations import get_reporting_integration_callbacks

from trainer.policy import RoundRefused
from trainer.runs import Plan

REPORTS = "reports"  # in the run's directory


def report(trainer: Any, plan: Plan, run: Path) -> None:
    """Have `trainer` tell those that `trainer.report_to` names. Raises RoundRefused."""
    if not plan.trainer.report_to:
        return
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run / REPORTS)
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", plan.policy)
    os.environ.setdefault("WANDB_PROJECT", plan.policy)
    os.environ.setdefault("WANDB_DIR", str(run))
    trainer.args.run_name = plan.run_id
    for callback in get_reporting_integration_callbacks(list(plan.trainer.report_to)):
        try:
            trainer.add_callback(callback)
        except (RuntimeError, ImportError) as error:  # what it talks to is not installed
            raise RoundRefused(
                f"trainer.report_to names {', '.join(plan.trainer.report_to)}, and one of them is"
                f" not installed here: {error}"
            ) from error
