"""GRPO from the log: a thin subclass of TRL's trainer (logged.py) that never generates.

Differences from textbook GRPO (arXiv 2402.03300):

1. Rows come from recorded traffic, each once per epoch; there are no groups.
   Advantages are given (advantage.py).
2. The importance ratio is against the recorded behaviour logprobs of whoever
   sampled the row, not against the policy at the start of the step. Without
   that, learning from a log that several versions wrote collapses.
3. A row holds all calls of a trajectory that go on from each other
   (batch/merging.py); the loss (loss.py) is that of its answers.
4. A KL term anchors to the base model, not to the adapter before, and budgets
   (budgets.py) end a round that goes too far.

Here a round's settings become a trainer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from trainer import ranks
from trainer.algorithms.budgets import Ledger, Limits
from trainer.algorithms.logged import LEAST_ROWS, Budgets, LoggedGRPOTrainer, with_logprobs
from trainer.algorithms.loss import Objective
from trainer.algorithms.protocol import NothingToLearn
from trainer.algorithms.rows import LoggedRows
from trainer.batch import order
from trainer.batch.samples import Sample
from trainer.policy import TrainingError, constant_schedule, device_for
from trajectories.settings import TrainerSettings


def make_grpo_trainer(
    model: Any,
    tokenizer: Any,
    *,
    samples: Sequence[Sample],
    advantages: Sequence[float],
    settings: TrainerSettings,
    output: Path,
    optimizer: Any,
    callbacks: list[Any],
    parent: int = 0,
    load_base: Callable[[], Any] | None = None,
) -> LoggedGRPOTrainer:
    """The trainer of one round; rows whose advantage is 0 teach nothing and are left out.

    `parent` is the version that the round starts from. `load_base` brings the base model where
    `model` is not an adapter on it.
    """
    rows = LoggedRows(samples, advantages, parent=parent, is_merged=settings.merge_calls)
    if rows.spans < 2:
        raise NothingToLearn("every advantage is zero: all rewards of the round are alike")
    shape = shape_of(rows, settings.batch_size, ranks.count())
    config = GRPOConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        save_steps=order.checkpoint_steps(len(rows), shape, settings.epochs),
        num_generations=shape.width,  # TRL wants groups; nothing reads them here
        max_completion_length=settings.max_length,
        beta=0.0,  # ours is in the objective: TRL would anchor to the adapter before
        temperature=1.0,
    )
    budgets = Budgets()
    trainer = LoggedGRPOTrainer(
        model=model,
        reward_funcs=refuse_to_reward,
        args=config,
        train_dataset=numbers_of(rows),
        processing_class=tokenizer,
        callbacks=[budgets, *callbacks],
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
    budgets.trainer = trainer
    trainer.rows, trainer.shape = rows, shape
    trainer.objective = objective_of(settings)
    trainer.ledger = Ledger(limits_of(settings), [task_name(key) for key in rows.tasks])
    if load_base is not None and trainer.needs_base:
        trainer.base = with_logprobs(load_base())
    if settings.decoupled:
        trainer.compute_parent(order.TOKENS_PER_PASS)
    elif trainer.ledger.limits.needs_parent and rows.has_unknown_task:
        trainer.compute_parent(order.TOKENS_PER_PASS, lambda at: not rows.is_own(at))
    elif rows.has_constrained:
        trainer.compute_parent(order.TOKENS_PER_PASS, rows.is_constrained)
    return trainer


def numbers_of(rows: LoggedRows) -> Dataset:
    """What is loaded: the number of each row, and one more that stands for a blank one."""
    return Dataset.from_dict({"row": list(range(max(len(rows), LEAST_ROWS) + 1))})


def objective_of(settings: TrainerSettings) -> Objective:
    return Objective(
        loss=settings.loss,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        dual_clip=settings.dual_clip,
        off_policy_threshold=settings.off_policy_threshold,
        is_decoupled=settings.decoupled,
        weight_cap=settings.weight_cap,
        kl_to_base=settings.kl_to_base,
    )


def limits_of(settings: TrainerSettings) -> Limits:
    return Limits(settings.kl_budget, settings.kl_to_base_budget, settings.task_guard)


def task_name(key: tuple[str, str | None, str | None]) -> str:
    """A task of an agent, in words.

    >>> task_name(("acme", "planner", None))
    'planner, no task'
    """
    _, agent, task = key
    return ", ".join(filter(None, (agent, task or "no task")))


def shape_of(rows: LoggedRows, batch_size: int, processes: int) -> order.Shape:
    """Steps of about `batch_size` samples, in whole rows, as even as can be."""
    count = max(len(rows), LEAST_ROWS)
    per_step = max(LEAST_ROWS, round(batch_size * len(rows) / rows.spans))
    steps = -(-count // per_step)
    per_step = max(LEAST_ROWS, -(-count // steps))
    return order.shape_for(count, batch_size=per_step, longest=rows.longest, processes=processes)


def refuse_to_reward(**_: Any) -> list[float]:
    """TRL asks for a reward function; rewards come from the log."""
    raise TrainingError("TRL asked for a reward: a method that must be overridden was not")


def shared_arguments(settings: TrainerSettings, output: Path) -> dict[str, Any]:
    """What GRPO and SFT share. bf16 is off where the weights already have the wanted dtype."""
    is_cpu = device_for(settings) == "cpu"
    return {
        "output_dir": str(output),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "bf16": settings.weights == "full" and settings.dtype == "bfloat16",
        "use_cpu": is_cpu,
        "ddp_find_unused_parameters": False,
        "gradient_checkpointing": not is_cpu,
        "seed": settings.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
    }
