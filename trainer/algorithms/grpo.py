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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from trainer.batch.samples import Sample
from trainer.policy import TrainingError, constant_schedule, device_for
from trajectories.settings import TrainerSettings

TOKENS_PER_PASS = 8192  # rows times the longest row, in one forward pass
CHECKPOINTS = 5  # per round
SMALLEST_ADVANTAGE = 1e-8


class EachRowOnce(Sampler[int]):  # type: ignore[misc]
    """Every row once per epoch, in an order that depends on seed and epoch only.

    TRL takes a new batch only every `repeat` micro-steps, while the loader moves
    on at each: so each block of rows is yielded `repeat` times in a row.
    """

    def __init__(self, rows: int, *, block: int, repeat: int, seed: int) -> None:
        self._rows = rows
        self._block = block
        self._repeat = repeat
        # A batch that is cut into micro-batches has to be full; one that is not, need not.
        self._length = rows // block * block if repeat > 1 else rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length * self._repeat

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(self._rows, generator=generator).tolist()
        for start in range(0, self._length, self._block):
            block = order[start : min(start + self._block, self._length)]
            for _ in range(self._repeat):
                yield from block


class LoggedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains on rows of {prompt_ids, completion_ids, logprobs, advantage}."""

    kl_to_base = 0.0

    def _get_train_sampler(self, dataset: Any = None) -> EachRowOnce:
        rows = len(dataset if dataset is not None else self.train_dataset)
        return EachRowOnce(
            rows,
            block=self.args.generation_batch_size,
            repeat=self.args.steps_per_generation,
            seed=self.args.seed,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Padded rows of the log in the place of what TRL would have generated."""
        fill = self._tokenizer.pad_token_id
        prompts = self._padded([row["prompt_ids"] for row in inputs], fill, "left")
        answers = self._padded([row["completion_ids"] for row in inputs], fill, "right")
        prompt_mask = self._mask([row["prompt_ids"] for row in inputs], "left")
        answer_mask = self._mask([row["completion_ids"] for row in inputs], "right")
        behaviour = self._padded([row["logprobs"] for row in inputs], 0.0, "right").float()
        advantages = torch.tensor([row["advantage"] for row in inputs], device=prompts.device)
        batch = {
            "prompt_ids": prompts,
            "prompt_mask": prompt_mask,
            "completion_ids": answers,
            "completion_mask": answer_mask,
            "advantages": advantages,
            "old_per_token_logps": behaviour,
            "sampling_per_token_logps": behaviour,
            "num_items_in_batch": self.accelerator.gather(answer_mask.sum()).sum(),
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
        }
        for sample, advantage in zip(samples, advantages, strict=True)
        if abs(advantage) > SMALLEST_ADVANTAGE
    ]
    if len(rows) < 2:
        raise TrainingError("every advantage is zero: all rewards of the round are alike")
    longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows)
    batch = min(settings.batch_size, len(rows))
    micro = micro_batch(batch, longest)
    config = GRPOConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        save_steps=checkpoint_steps(len(rows), batch, settings.epochs),
        num_generations=batch,  # TRL wants groups; nothing reads them here
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
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
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
        "gradient_checkpointing": not is_cpu,
        "seed": settings.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
    }


def micro_batch(batch: int, longest: int) -> int:
    """The largest divisor of `batch` whose padded rows fit one forward pass."""
    fitting = max(1, TOKENS_PER_PASS // longest)
    return max(size for size in range(1, batch + 1) if batch % size == 0 and size <= fitting)


def checkpoint_steps(rows: int, batch: int, epochs: int) -> int:
    """Steps between two checkpoints."""
    return max(1, -(-rows // batch) * epochs // CHECKPOINTS)
