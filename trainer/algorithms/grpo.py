"""GRPO from the log: a thin subclass of TRL's trainer that never generates.

Differences from textbook GRPO (arXiv 2402.03300):

1. Rows come from recorded traffic, each once per epoch; there are no groups.
   Advantages are given (advantage.py).
2. The importance ratio is against the recorded behaviour logprobs of whoever
   sampled the row, not against the policy at the start of the step. Without
   that, learning from a log that several versions wrote collapses.
3. DAPO's token-level loss and asymmetric clipping (arXiv 2503.14476), a dual
   clip (`delta`, arXiv 1912.09729), and DeepSeek-V3.2's mask of negative
   sequences that have drifted too far off policy (arXiv 2512.02556).
4. A KL term anchors to the base model, not to the adapter before.

Losses, accumulation, checkpoints and devices are TRL's. The overridden methods
are private: trl is pinned to 1.16, and a test holds their signatures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from trainer import ranks
from trainer.algorithms.protocol import NothingToLearn
from trainer.batch.order import RowOrder, checkpoint_steps, shape_for
from trainer.batch.samples import Sample
from trainer.policy import TrainingError, constant_schedule, device_for
from trajectories.settings import TrainerSettings

SMALLEST_ADVANTAGE = 1e-8
BLANK = {"prompt_ids": [0], "completion_ids": [0], "logprobs": [0.0], "advantage": 0.0, "loss": 0}


class LoggedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, completion_ids, logprobs, advantage, loss}."""

    order: RowOrder

    def _get_train_sampler(self, dataset: Any = None) -> RowOrder:
        return self.order

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Padded rows of the log in the place of what TRL would have generated."""
        fill = self._tokenizer.pad_token_id
        prompts = self._padded([row["prompt_ids"] for row in inputs], fill, "left")
        answers = self._padded([row["completion_ids"] for row in inputs], fill, "right")
        prompt_mask = self._mask([row["prompt_ids"] for row in inputs], "left")
        answer_mask = self._mask([row["completion_ids"] for row in inputs], "right")
        behaviour = self._padded([row["logprobs"] for row in inputs], 0.0, "right").float()
        loss_mask = self._padded(
            [[row["loss"]] * len(row["completion_ids"]) for row in inputs], 0, "right"
        )
        advantages = torch.tensor([row["advantage"] for row in inputs], device=prompts.device)
        batch = {
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "completion_ids": answers,
            "completion_mask": answer_mask,
            "tool_mask": loss_mask,  # TRL's name for tokens without loss
            "advantages": advantages,
            "old_per_token_logps": behaviour,
            "sampling_per_token_logps": behaviour,
            "num_items_in_batch": self.accelerator.gather(loss_mask.sum()).sum(),
        }
        if self.beta:
            batch["ref_per_token_logps"] = self._base_logprobs(batch)
        return batch

    def _base_logprobs(self, batch: dict[str, Any]) -> torch.Tensor:
        model = self.accelerator.unwrap_model(self.model)
        with torch.no_grad(), model.disable_adapter():
            logprobs, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
                torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        result: torch.Tensor = logprobs
        return result

    def _padded(self, rows: list[list[Any]], fill: float, side: str) -> torch.Tensor:
        tensors = [torch.tensor(row) for row in rows]
        padded: torch.Tensor = pad(tensors, padding_value=fill, padding_side=side)
        return padded.to(self.accelerator.device)

    def _mask(self, rows: list[list[int]], side: str) -> torch.Tensor:
        return self._padded([[1] * len(row) for row in rows], 0, side)


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
) -> LoggedGRPOTrainer:
    """The trainer of one round; rows whose advantage is 0 teach nothing and are left out."""
    rows: list[dict[str, Any]] = [
        {
            "prompt_ids": sample.prompt_token_ids,
            "completion_ids": sample.token_ids,
            "logprobs": sample.logprobs,
            "advantage": advantage,
            "loss": 1,
        }
        for sample, advantage in zip(samples, advantages, strict=True)
        if abs(advantage) > SMALLEST_ADVANTAGE
    ]
    if len(rows) < 2:
        raise NothingToLearn("every advantage is zero: all rewards of the round are alike")
    longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows)
    shape = shape_for(
        len(rows), batch_size=settings.batch_size, longest=longest, processes=ranks.count()
    )
    order = RowOrder(
        len(rows),
        shape,
        chunk=shape.micro * shape.passes,  # TRL's loader takes a whole step for each process
        seed=settings.seed,
        repeat=shape.passes,
    )
    config = GRPOConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        save_steps=checkpoint_steps(len(rows), shape, settings.epochs),
        num_generations=shape.width,  # TRL wants groups; nothing reads them here
        max_completion_length=settings.max_length,
        loss_type="dapo",
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        delta=settings.dual_clip,
        off_policy_mask_threshold=settings.off_policy_threshold,
        beta=0.0,  # set below: given here, TRL would anchor to the adapter before
        temperature=1.0,
    )
    trainer = LoggedGRPOTrainer(
        model=model,
        reward_funcs=refuse_to_reward,
        args=config,
        train_dataset=Dataset.from_list([*rows, BLANK]),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
    trainer.order = order
    trainer.beta = settings.kl_to_base
    return trainer


def refuse_to_reward(**_: Any) -> list[float]:
    """TRL asks for a reward function; rewards come from the log."""
    raise TrainingError("TRL asked for a reward: a method that must be overridden was not")


def shared_arguments(settings: TrainerSettings, output: Path) -> dict[str, Any]:
    """What GRPO and SFT share. bf16 stays off: the weights already have the wanted dtype."""
    is_cpu = device_for(settings) == "cpu"
    return {
        "output_dir": str(output),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "bf16": False,
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
