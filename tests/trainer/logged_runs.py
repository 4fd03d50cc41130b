"""Run directories as the loop leaves them to a round, with answers of the tiny model itself."""

import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.trainer.records import a_sample
from tests.trainer.tiny_model import VOCABULARY
from trainer.batch.samples import Sample
from trainer.durable import write_atomic
from trainer.policy import logprobs_of
from trainer.runs import BATCH, PLAN, Plan, RunDirectory
from trajectories.settings import TrainerSettings


def logged_samples(base: Path, count: int) -> list[Sample]:
    """Answers with the base's own logprobs, good and bad in turn."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chance = random.Random(0)

    def words(least: int, most: int) -> tuple[int, ...]:
        return tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(least, most)))

    samples = []
    for number in range(count):
        prompt, answer = words(2, 6), words(2, 5)
        fields = {
            "prompt_token_ids": prompt,
            "token_ids": answer,
            "logprobs": tuple(logprobs_of(model, prompt, answer)),
        }
        samples.append(a_sample(f"default/t{number}", 1.0 if number % 2 else -0.5, **fields))
    return samples


def write_run(
    path: Path, base: Path, samples: list[Sample], algorithm: str, **trainer: Any
) -> RunDirectory:
    """A collected run of these samples; SFT takes all of them."""
    settings: dict[str, Any] = {
        "rank": 4,
        "alpha": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "threads": 1,
        "device": "cpu",
        "sft_threshold": -1.0,
        **trainer,
    }
    plan = Plan(
        run_id=algorithm,
        policy="policy",
        algorithm=algorithm,
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(**settings),
        refs=(),
    )
    path.mkdir(parents=True)
    write_atomic(path / PLAN, plan.to_json())
    write_atomic(path / BATCH, b"".join(sample.to_json() + b"\n" for sample in samples))
    return RunDirectory(path)
