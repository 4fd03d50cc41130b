#!/usr/bin/env python3
"""A round of real size on a GPU: our GRPO on logged rows against TRL's own on the same rows.

    python benchmarks/gpu_round.py [--json FILE]    a Qwen3 of 0.6 billion random weights, bfloat16
    python benchmarks/gpu_round.py --small          the same with a tiny one on a CPU, in a minute

Made for a machine that is lent for minutes and reaches no network: the model is
made on the spot, and nothing is served. It needs torch, transformers, trl, peft
and, of what Ratchet asks for, orjson, pydantic, pydantic-settings, redis,
hiredis, pyyaml, safetensors and huggingface_hub.

Rows are what a log holds: sessions of several calls, each call's prompt the one
before with its answer and a new question, and the logprobs that were recorded.
Each way runs in a process of its own, as TRL cannot train two PEFT models in one:

    plain     TRL's GRPOTrainer, its loss, each call a row of its own
    separate  ours, each call a row of its own
    merged    ours as it is: calls whose tokens go on from each other share a row

The figures are of the second of two epochs: answer tokens learned from in a
second (the same in every way), tokens that went through the model for that,
seconds of a step, and the peak of memory.
"""

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

WAYS = ("plain", "separate", "merged")
EPOCHS = 2  # the first is not counted: kernels are chosen, memory is laid out


@dataclass(frozen=True, slots=True)
class Size:
    """How large the model and the rows are."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    sessions: int
    calls: int  # of a session
    system: int  # tokens
    question: int
    answer: int
    batch: int  # samples of a step
    dtype: str


REAL = Size(1024, 28, 16, 151_936, 64, 8, 200, 100, 120, 32, "bfloat16")
SMALL = Size(64, 2, 2, 512, 8, 6, 20, 10, 12, 8, "float32")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way took."""

    way: str
    device: str
    parameters: int
    samples: int
    answer_tokens: int  # of one epoch
    model_tokens: int  # that went through the model for these, padding among them
    seconds: float
    step_seconds: float  # the median
    peak_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="tiny, and on the CPU")
    parser.add_argument("--rounds", type=int, help="visits of each way, in turn (2, small: 1)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = SMALL if arguments.small else REAL
    if arguments.way:
        warnings.simplefilter("ignore")
        found = measure(arguments.way, size, arguments.base)
        sys.stdout.write(f"\n{orjson.dumps(asdict(found)).decode()}\n")
        return
    with tempfile.TemporaryDirectory(prefix="gpu-round") as directory:
        base = Path(directory) / "base"
        make_base(base, size)
        visits = [
            visit(way, base, is_small=arguments.small)
            for _ in range(arguments.rounds or (1 if arguments.small else 2))
            for way in WAYS
        ]
    print(table(visits))
    if arguments.json:
        arguments.json.write_bytes(orjson.dumps([asdict(found) for found in visits]))


def visit(way: str, base: Path, *, is_small: bool) -> Figures:
    """One way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--base", str(base)]
    if is_small:
        command.append("--small")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return Figures(**orjson.loads(done.stdout.strip().splitlines()[-1]))


def make_base(path: Path, size: Size) -> None:
    """A Qwen3 of random weights with a tokenizer of numbers; nothing is downloaded."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        head_dim=128 if size is REAL else size.hidden // size.heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
    )
    Qwen3ForCausalLM(config).to(getattr(torch, size.dtype)).save_pretrained(path)
    words = Tokenizer(models.WordLevel({str(number): number for number in range(64)}, "0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", pad_token="0")
    tokenizer.save_pretrained(path)


def logged_samples(size: Size) -> list[Any]:
    """Sessions as the log has them; their logprobs are about those of a random model: all alike."""
    import math

    from trainer.batch.samples import Sample

    chance = random.Random(0)
    logprob = -math.log(size.vocabulary)
    samples = []
    for session in range(size.sessions):
        said = [chance.randrange(2, size.vocabulary) for _ in range(size.system)]
        for call in range(size.calls):
            said = said + [chance.randrange(2, size.vocabulary) for _ in range(size.question)]
            answer = [chance.randrange(2, size.vocabulary) for _ in range(size.answer)]
            samples.append(
                Sample(
                    id=f"default/s{session}/{call}",
                    trajectory=f"default/s{session}",
                    tenant="default",
                    agent=None,
                    task=f"task{session % 4}",
                    version=0,
                    prompt_token_ids=tuple(said),
                    token_ids=tuple(answer),
                    logprobs=(logprob,) * len(answer),
                    reward=float(session // 4 % 2),
                )
            )
            said = said + answer
    return samples


def measure(way: str, size: Size, base: Path) -> Figures:
    """Train two epochs that way, and read clock and memory."""
    import torch

    from trainer.policy import load_policy
    from trainer.runs import Plan
    from trajectories.settings import TrainerSettings

    device = "cuda" if size is REAL else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; --small runs on the CPU")
    chosen: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": size.batch,
        "dtype": size.dtype,
        "device": device,
        "max_length": 8192,
        "threads": 1 if device == "cpu" else 0,
    }
    if "merge_calls" in TrainerSettings.model_fields:
        chosen["merge_calls"] = way == "merged"
    plan = Plan(
        run_id="gpu_round",
        policy="policy",
        algorithm="grpo",
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(**chosen),
        refs=(),
    )
    if plan.trainer.threads:
        torch.set_num_threads(plan.trainer.threads)
    model, tokenizer = load_policy(plan)
    samples = logged_samples(size)
    clock = Clock(device)
    model.get_base_model().get_input_embeddings().register_forward_hook(clock.count)
    with tempfile.TemporaryDirectory(prefix="gpu-round") as output:
        make = plain_trainer if way == "plain" else our_trainer
        trainer = make(plan, model, tokenizer, samples, Path(output))
        trainer.add_callback(clock.callback())
        trainer.args.save_strategy = "no"
        trainer.train()
    steps = clock.steps[len(clock.steps) // EPOCHS :]
    if device == "cuda":
        name, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated() / 1e6
    else:
        name, peak = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return Figures(
        way=way,
        device=name,
        parameters=sum(p.numel() for p in model.parameters()),
        samples=len(samples),
        answer_tokens=sum(len(sample.token_ids) for sample in samples),
        model_tokens=sum(tokens for _, tokens in steps),
        seconds=sum(seconds for seconds, _ in steps),
        step_seconds=statistics.median(seconds for seconds, _ in steps),
        peak_mb=peak,
    )


class Clock:
    """Seconds of each step and the tokens that went through the model in it."""

    def __init__(self, device: str) -> None:
        self.steps: list[tuple[float, int]] = []
        self._device = device
        self._tokens = 0
        self._started = 0.0

    def count(self, module: Any, inputs: Any, output: Any) -> None:
        """A hook of the embedding: what is looked up goes through the model."""
        self._tokens += inputs[0].numel()

    def callback(self) -> Any:
        import torch
        from transformers import TrainerCallback

        clock = self

        def now() -> float:
            if clock._device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock._started, clock._tokens = now(), 0

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.steps.append((now() - clock._started, clock._tokens))

        return Steps()


def our_trainer(plan: Any, model: Any, tokenizer: Any, samples: list[Any], output: Path) -> Any:
    """As `trainer.round` makes it."""
    from trainer.algorithms.builtin import GRPO
    from trainer.algorithms.protocol import Round
    from trainer.policy import make_optimizer

    return GRPO.make_trainer(
        Round(
            plan=plan,
            model=model,
            tokenizer=tokenizer,
            samples=samples,
            output=output,
            optimizer=make_optimizer(model, plan.trainer, None),
            callbacks=(),
        )
    )


def plain_trainer(plan: Any, model: Any, tokenizer: Any, samples: list[Any], output: Path) -> Any:
    """TRL's own trainer and loss; only its generation is replaced by the rows of the log."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import pad

    from trainer.batch.order import RowOrder, shape_for
    from trainer.policy import constant_schedule, make_optimizer

    settings = plan.trainer
    mean = statistics.fmean(sample.reward for sample in samples)
    rows = [
        {
            "prompt_ids": sample.prompt_token_ids,
            "completion_ids": sample.token_ids,
            "advantage": sample.reward - mean,
        }
        for sample in samples
    ]
    longest = max(len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows)
    shape = shape_for(len(rows), batch_size=settings.batch_size, longest=longest)
    chunk = shape.micro * shape.passes
    order = RowOrder(len(rows), shape, chunk=chunk, seed=0, repeat=shape.passes)

    class Plain(GRPOTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return order

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            def padded(name: str, side: str, *, is_mask: bool = False) -> Any:
                rows = [torch.tensor(row[name]) for row in inputs]
                if is_mask:
                    rows = [torch.ones_like(row) for row in rows]
                found = pad(rows, padding_value=0, padding_side=side)
                return found.to(self.accelerator.device)

            mask = padded("completion_ids", "right", is_mask=True)
            return {
                "prompt_ids": padded("prompt_ids", "left"),
                "prompt_mask": padded("prompt_ids", "left", is_mask=True),
                "completion_ids": padded("completion_ids", "right"),
                "completion_mask": mask,
                "advantages": torch.tensor(
                    [row["advantage"] for row in inputs], device=mask.device
                ),
                "num_items_in_batch": self.accelerator.gather(mask.sum()).sum(),
            }

    config = GRPOConfig(
        output_dir=str(output),
        learning_rate=settings.learning_rate,
        num_train_epochs=EPOCHS,
        lr_scheduler_type="constant",
        per_device_train_batch_size=shape.micro,
        gradient_accumulation_steps=shape.passes,
        num_generations=shape.width,
        max_completion_length=settings.max_length,
        loss_type="dapo",
        beta=0.0,
        bf16=False,
        use_cpu=settings.device == "cpu",
        gradient_checkpointing=settings.device != "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = make_optimizer(model, settings, None)
    return Plain(
        model=model,
        reward_funcs=lambda **_: [],
        args=config,
        train_dataset=Dataset.from_list(
            [*rows, {"prompt_ids": [0], "completion_ids": [0], "advantage": 0.0}]
        ),
        processing_class=tokenizer,
        optimizers=(optimizer, constant_schedule(optimizer)),
    )


def table(visits: list[Figures]) -> str:
    """Markdown; each way by the best of its visits."""
    best = {
        way: min((v for v in visits if v.way == way), key=lambda found: found.seconds)
        for way in WAYS
    }
    plain = best["plain"]
    first = (
        f"{plain.device}; {plain.parameters / 1e6:,.1f} million weights, {plain.samples} samples;"
        f" the best of {len(visits) // len(WAYS)} visits\n"
    )
    lines = [
        first,
        "| way | answer tokens/s | against plain | tokens through the model | step s | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way, found in best.items():
        speed = found.answer_tokens / found.seconds
        against = speed / (plain.answer_tokens / plain.seconds)
        lines.append(
            f"| {way} | {speed:,.0f} | {against:.2f} | {found.model_tokens:,} |"
            f" {found.step_seconds:.3f} | {found.peak_mb:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
