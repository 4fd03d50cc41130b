"""What our layer costs on TRL, and what merging saves: `python -m benchmarks.overhead --write`.

A tiny random Qwen3 is trained by LoRA for one epoch on the same made-up log in
three ways: TRL's GRPOTrainer with its own loss (the stub gives it the rows where
it would have generated, and the same order), ours with a row for each call, and
ours with the calls of a trajectory merged. The ways take turns, so that what
else goes on in the machine hits all alike; the figures are medians. Wall time
and CPU time are those of `train()`: reading rows from disk, padding, passes,
updates, and the metrics of each step.
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import date
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

from benchmarks.gateway_bench.machine import this_machine
from benchmarks.gateway_bench.page import markdown, origin, write
from trainer.algorithms.grpo import make_grpo_trainer, refuse_to_reward, shared_arguments
from trainer.batch.merging import merge, saving
from trainer.batch.order import RowOrder, Shape, shape_for
from trainer.batch.samples import Sample
from trainer.batch.stored import StoredSamples
from trainer.policy import constant_schedule, load_policy, logprobs_of, make_optimizer
from trainer.runs import Plan
from trajectories.settings import TrainerSettings

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
VOCABULARY = 4096
OPENING, ANSWER, BETWEEN = 48, 40, 24  # tokens
CALLS = 40  # of each log
COLUMNS = (
    "calls a trajectory",
    "way",
    "tokens",
    "wall s",
    "CPU s",
    "CPU of TRL's",
    "wall of TRL's",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One way over one log."""

    calls: int
    way: str
    tokens: int
    wall_seconds: float
    cpu_seconds: float


class PlainTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's own, given rows where it would have generated."""

    order: RowOrder

    def _get_train_sampler(self, dataset: Any = None) -> RowOrder:
        return self.order

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        def padded(name: str, fill: float, side: str) -> torch.Tensor:
            rows = [torch.tensor(row[name]) for row in inputs]
            found: torch.Tensor = pad(rows, padding_value=fill, padding_side=side)
            return found

        behaviour = padded("logprobs", 0.0, "right").float()
        prompts, answers = padded("prompt", -1, "left"), padded("answer", -1, "right")
        return {
            "prompt_ids": prompts.clamp(min=0),
            "prompt_mask": (prompts >= 0).long(),
            "completion_ids": answers.clamp(min=0),
            "completion_mask": (answers >= 0).long(),
            "advantages": torch.tensor([row["advantage"] for row in inputs]),
            "old_per_token_logps": behaviour,
            "sampling_per_token_logps": behaviour,
            "num_items_in_batch": (answers >= 0).sum(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 4, 8, 10])
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="write them to docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        base = save_base(Path(name) / "base")
        measure(base, Path(name) / "warm", options.calls[0], 1)
        for calls in options.calls:
            found += measure(base, Path(name), calls, options.rounds)
            for line in cells(found):
                if line[0] == str(calls):
                    print(" | ".join(line), flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(entry) for entry in found], indent=1) + "\n")
    if options.write:
        command = f"python -m benchmarks.overhead --rounds {options.rounds} --write"
        how = origin(this_machine(), command, date.today())
        write(PAGE, "overhead", f"{how}\n\n{markdown(COLUMNS, cells(found))}")


def measure(base: Path, directory: Path, calls: int, rounds: int) -> list[Figures]:
    """All ways over one log, in turn."""
    directory.mkdir(exist_ok=True)
    plan = a_plan(base)
    samples = a_log(load_policy(plan)[0], directory / f"log-{calls}.jsonl", calls)
    advantages = [sample.reward for sample in samples]
    ways: dict[str, Callable[[Path], Any]] = {
        "TRL": lambda path: plain(plan, samples, path),
        "ours, a row a call": lambda path: ours(plan, samples, advantages, path, is_merged=False),
        "ours, merged": lambda path: ours(plan, samples, advantages, path, is_merged=True),
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, make in ways.items():
            with redirect_stdout(StringIO()):
                trainer = make(directory / f"{way}-{calls}-{number}")
                wall, cpu = time.perf_counter(), time.process_time()
                trainer.train()
                spent = time.perf_counter() - wall, time.process_time() - cpu
            times[way].append(spent)
    saved = saving(merge(samples))
    return [
        Figures(
            calls,
            way,
            saved.merged if way.endswith("merged") else saved.separate,
            median(wall for wall, _ in spent),
            median(cpu for _, cpu in spent),
        )
        for way, spent in times.items()
    ]


def cells(found: list[Figures]) -> list[list[str]]:
    trl = {entry.calls: entry for entry in found if entry.way == "TRL"}
    return [
        [
            str(entry.calls),
            entry.way,
            f"{entry.tokens:,}",
            f"{entry.wall_seconds:.2f}",
            f"{entry.cpu_seconds:.2f}",
            f"{entry.cpu_seconds / trl[entry.calls].cpu_seconds:.2f}",
            f"{entry.wall_seconds / trl[entry.calls].wall_seconds:.2f}",
        ]
        for entry in found
    ]


def plain(plan: Plan, samples: StoredSamples, output: Path) -> PlainTrainer:
    """TRL's trainer with its own loss over the same rows, in the same steps."""
    settings = plan.trainer
    model, tokenizer = load_policy(plan)
    rows = [
        {
            "prompt": list(sample.prompt_token_ids),
            "answer": list(sample.token_ids),
            "logprobs": list(sample.logprobs),
            "advantage": sample.reward,
        }
        for sample in samples
    ]
    blank = {"prompt": [0], "answer": [-1], "logprobs": [0.0], "advantage": 0.0}
    longest = max(len(row["prompt"]) + len(row["answer"]) for row in rows)  # type: ignore[arg-type]
    shape: Shape = shape_for(len(rows), batch_size=settings.batch_size, longest=longest)
    config = GRPOConfig(
        **shared_arguments(settings, output),
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        num_generations=shape.width,
        loss_type="dapo",
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        delta=settings.dual_clip,
        off_policy_mask_threshold=settings.off_policy_threshold,
        beta=0.0,
    )
    optimizer = make_optimizer(model, settings, None)
    trainer = PlainTrainer(
        model=model,
        reward_funcs=refuse_to_reward,
        args=config,
        train_dataset=Dataset.from_list([*rows, blank]),
        processing_class=tokenizer,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )
    trainer.order = RowOrder(
        len(rows), shape, chunk=shape.micro * shape.passes, seed=0, repeat=shape.passes
    )
    return trainer


def ours(
    plan: Plan, samples: StoredSamples, advantages: list[float], output: Path, *, is_merged: bool
) -> Any:
    """Ours over the same rows; budgets as they are by default."""
    model, tokenizer = load_policy(plan)
    settings = plan.trainer.model_copy(update={"merge_calls": is_merged})
    return make_grpo_trainer(
        model,
        tokenizer,
        samples=samples,
        advantages=advantages,
        settings=settings,
        output=output,
        optimizer=make_optimizer(model, settings, None),
        callbacks=[],
    )


def a_log(model: Any, path: Path, calls: int) -> StoredSamples:
    """About CALLS calls in trajectories of `calls` each, answered by the model itself."""
    chance = random.Random(0)

    def words(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(2, VOCABULARY) for _ in range(count))

    with path.open("w") as file:
        for number in range(CALLS // calls):
            said = words(chance.randrange(OPENING // 2, 2 * OPENING))
            for step in range(calls):
                answer = words(chance.randrange(ANSWER // 2, 3 * ANSWER // 2))
                sample = Sample(
                    id=f"t{number}-{step}/0",
                    trajectory=f"default/t{number}",
                    tenant="default",
                    agent=None,
                    task="task",
                    version=0,
                    prompt_token_ids=said,
                    token_ids=answer,
                    logprobs=tuple(logprobs_of(model, said, answer)),
                    reward=1.0 if number % 2 else -1.0,
                    step=step,
                )
                file.write(sample.to_json().decode() + "\n")
                said = (*said, *answer, *words(BETWEEN))
    return StoredSamples(path)


def a_plan(base: Path) -> Plan:
    """A learning rate that ends no round early."""
    trainer = TrainerSettings(threads=1, device="cpu", epochs=1, learning_rate=1e-6)
    return Plan(
        run_id="run",
        policy="policy",
        algorithm="grpo",
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=trainer,
        refs=(),
    )


def save_base(path: Path) -> Path:
    """A random Qwen3 of 6 million weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(path)
    vocabulary = {str(i): i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="1", pad_token="0"
    ).save_pretrained(path)
    return path


if __name__ == "__main__":
    main()
