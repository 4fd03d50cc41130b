"""A tiny policy in this process: what vLLM does for the demo, as far as the ablation needs it.

Answers are sampled at temperature 1 with their token ids and raw log
probabilities, and tool calls are taken out of the text as vLLM's `hermes`
parser does: all of them, or none where one cannot be read.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ratchet.demo.questions import CALCULATOR
from trajectories.model import Choice

MAX_TOKENS = 64
ROWS = 256  # in one forward pass
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>|<tool_call>(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One answer, and the prompt that it answers."""

    prompt_token_ids: tuple[int, ...]
    choice: Choice


class Sampler:
    """A base model with an adapter on it, or bare."""

    def __init__(self, base: Path, adapter: Path | None, seed: int) -> None:
        torch.manual_seed(seed)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter is not None:
            self._model = PeftModel.from_pretrained(self._model, adapter)
        self._model.eval()

    def answer(self, conversations: list[list[dict[str, Any]]]) -> list[Sampled]:
        """One answer for each conversation."""
        found: list[Sampled] = []
        for start in range(0, len(conversations), ROWS):
            found += self._answer(conversations[start : start + ROWS])
        return found

    def _answer(self, conversations: list[list[dict[str, Any]]]) -> list[Sampled]:
        prompts = [
            self._tokenizer.apply_chat_template(
                messages, tools=[CALCULATOR], add_generation_prompt=True, return_dict=False
            )
            for messages in conversations
        ]
        padded = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        with torch.no_grad():
            made = self._model.generate(
                **padded,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=MAX_TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens_bt = made.sequences[:, padded["input_ids"].shape[1] :]
        logits_btv = torch.stack(made.logits, dim=1).float()
        logprobs_bt = logits_btv.log_softmax(-1).gather(2, tokens_bt[..., None])[..., 0]
        rows = zip(prompts, tokens_bt.tolist(), logprobs_bt.tolist(), strict=True)
        return [Sampled(tuple(prompt), self._choice(ids, values)) for prompt, ids, values in rows]

    def _choice(self, ids: list[int], logprobs: list[float]) -> Choice:
        end = self._tokenizer.eos_token_id
        length = ids.index(end) + 1 if end in ids else len(ids)
        message = read(self._tokenizer.decode(ids[:length], skip_special_tokens=True))
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        return Choice(
            message=message,
            finish_reason=reason if end in ids else "length",
            token_ids=tuple(ids[:length]),
            logprobs=tuple(logprobs[:length]),
        )


def read(text: str) -> dict[str, Any]:
    """The text of an answer as a message: with its tool calls, if all of them can be read."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    calls = []
    for number, match in enumerate(_CALL.finditer(text)):
        try:
            call = json.loads(match[1] or match[2])
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        except (ValueError, KeyError, TypeError):
            return message
        calls.append({"id": f"call_{number}", "type": "function", "function": function})
    if calls:
        message = {**message, "content": text[: text.index("<tool_call>")] or None}
        message["tool_calls"] = calls
    return message
