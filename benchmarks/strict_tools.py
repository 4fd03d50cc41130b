"""What a grammar does to recorded logprobs: python -m benchmarks.strict_tools [--model DIR]

The demo's model (made on the spot, unless there is one) behind a real vLLM on the CPU is asked
questions with a plain calculator, a strict one, a forced one and under a JSON schema. Of each
sampled token the logprob that vLLM gives is held against that of the model alone, computed as the
trainer computes it: where they are equal, the grammar took no probability away.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from ratchet.demo.questions import CALCULATOR, Split, stream_questions
from ratchet.demo.world import free_port
from ratchet.processes import Child
from ratchet.up import answers, engine_spec
from trainer.batch.grammars import FREE
from trajectories.settings import EngineSettings, Settings, UpstreamSettings

NAME = "model"
START_SECONDS = 240.0
EXACT = 1e-3  # nats: as equal as float32 computed twice
# A grammar that allows blanks anywhere lets so small a model write nothing else.
GRAMMARS = (
    *("--structured-outputs-config.disable_any_whitespace", "true"),
    *("--structured-outputs-config.backend", "xgrammar"),
)


def strict() -> dict[str, Any]:
    """The calculator as the OpenAI Agents SDK would declare it."""
    tool = copy.deepcopy(CALCULATOR)
    tool["function"]["strict"] = True
    tool["function"]["parameters"]["additionalProperties"] = False
    return tool


ASKED: Mapping[str, dict[str, Any]] = {
    "a plain tool": {"tools": [CALCULATOR]},
    "a strict tool": {"tools": [strict()]},
    "a strict tool, temperature 1.5": {"tools": [strict()], "temperature": 1.5},
    "a forced tool": {"tools": [CALCULATOR], "tool_choice": "required"},
    "a JSON schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "sum", "schema": CALCULATOR["function"]["parameters"]},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Seen:
    """How much likelier than to the model alone each token of some answers was, in nats."""

    answers: int
    taken: Sequence[float]

    def row(self, name: str) -> str:
        count = len(self.taken)
        exact = sum(abs(value) <= EXACT for value in self.taken) / count
        free = sum(abs(value) <= FREE for value in self.taken) / count
        return (
            f"| {name} | {self.answers} | {count} | {exact:.1%} | {free:.1%}"
            f" | {sum(self.taken) / count:.4f} | {min(self.taken):.1e} | {max(self.taken):.2f} |"
        )


def look(url: str, model: Any, asked: Mapping[str, Any], count: int) -> Seen:
    """Ask `count` questions, and compare."""
    from trainer.policy import logprobs_of

    taken: list[float] = []
    for number, question in enumerate(islice(stream_questions(Split.TRAFFIC, seed=1), count)):
        body = {
            "model": NAME,
            "messages": [{"role": "user", "content": question.text}],
            "max_tokens": 64,
            "logprobs": True,
            "return_token_ids": True,
            "seed": number,
            **asked,
        }
        answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        answer.raise_for_status()
        found = answer.json()
        (choice,) = found["choices"]
        alone = logprobs_of(model, found["prompt_token_ids"], choice["token_ids"])
        recorded = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        taken += [said - own for said, own in zip(recorded, alone, strict=True)]
    return Seen(count, taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="of the demo; unset: made now, in a minute")
    parser.add_argument("--steps", type=int, default=250, help="of its pretraining, if made now")
    parser.add_argument("--count", type=int, default=40, help="questions a row")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strict-") as directory:
        path = arguments.model or Path(directory) / "model"
        if arguments.model is None:
            making = (sys.executable, "-m", "ratchet.demo.model", str(path))
            subprocess.run([*making, "--steps", str(arguments.steps)], check=True)
        measure(path, arguments.count)


def measure(path: Path, count: int) -> None:
    """Serve it, ask, print the table."""
    import torch
    from transformers import AutoModelForCausalLM

    url = f"http://127.0.0.1:{free_port()}"
    settings = Settings(
        upstream=UpstreamSettings(url=url, base_model=NAME),
        engine=EngineSettings(
            serve=True,
            model=str(path),
            dtype="float32",
            arguments=("--kv-cache-memory-bytes", "64M", "--max-num-seqs", "16", *GRAMMARS),
        ),
    )
    log: list[str] = []
    child = Child(
        engine_spec(settings, {"HF_HUB_OFFLINE": "1"}), lambda _name, line: log.append(line)
    )
    child.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            if not child.is_running or time.monotonic() > deadline:
                raise SystemExit("vLLM did not start:\n" + "\n".join(log[-40:]))
            time.sleep(0.3)
        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        write(
            "| asked with | answers | tokens | equal | free | taken, mean | least | most |",
            "|---|---|---|---|---|---|---|---|",
        )
        for name, asked in ASKED.items():
            write(look(url, model, asked, count).row(name))
    finally:
        child.stop()


def write(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
