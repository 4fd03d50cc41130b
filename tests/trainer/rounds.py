"""Rounds over a random model of a few thousand weights: its plan, its directory, its rows."""

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


def a_plan(base: Path, algorithm: str = "grpo", **trainer: Any) -> Plan:
    fields: dict[str, Any] = {
        "rank": 4,
        "alpha": 8,
        "batch_size": 8,
        "learning_rate": 1e-2,  # far beyond any budget within a few steps
        "kl_budget": 0.0,
        "threads": 1,
        "device": "cpu",
        **trainer,
    }
    return Plan(
        run_id="run_1",
        policy="policy",
        algorithm=algorithm,
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(**fields),
        refs=(),
    )


def a_run(path: Path, plan: Plan, samples: list[Sample]) -> RunDirectory:
    path.mkdir(exist_ok=True)
    write_atomic(path / PLAN, plan.to_json())
    write_atomic(path / BATCH, b"".join(sample.to_json() + b"\n" for sample in samples))
    return RunDirectory(path)


def said_by(base: Path, count: int = 16) -> list[Sample]:
    """Answers with the base's own logprobs; those of an odd number are good."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chance = random.Random(0)
    rows = []
    for number in range(count):
        prompt = tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(2, 6)))
        tokens = tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(2, 5)))
        rows.append(
            a_sample(
                f"default/t{number}",
                1.0 if number % 2 else -1.0,
                prompt_token_ids=prompt,
                token_ids=tokens,
                logprobs=tuple(logprobs_of(model, prompt, tokens)),
            )
        )
    return rows


def mean_logprob(model: Any, samples: list[Sample]) -> float:
    values = [
        value for s in samples for value in logprobs_of(model, s.prompt_token_ids, s.token_ids)
    ]
    return sum(values) / len(values)
