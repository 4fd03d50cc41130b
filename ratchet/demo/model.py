"""`python -m ratchet.demo.model OUT --seed N`: a tiny Qwen3 that uses its calculator badly.

Makes a byte-level BPE tokenizer, a chat template with tools in the hermes format, and a model
of about 0.3 million parameters, and trains it on `demonstrations` for a minute or so on one core.
Held-out questions are never demonstrated. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import math
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.demo.demonstrations import Demonstration, demonstrate
from ratchet.demo.questions import CALCULATOR, Split, stream_questions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

TEMPLATE = r"""
{%- if tools or messages[0].role == 'system' %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}{% endif %}
{%- if tools %}You may call these tools:
{% for tool in tools %}{% set f = tool.function %}
{{- f.name }}({{ f.parameters.properties | join(', ') }}): {{ f.description + '\n' }}{% endfor %}
{%- endif %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
{%- set f = call.function %}{% set a = f.arguments %}<tool_call>
{"name": "{{ f.name }}", "arguments": {{ a if a is string else a | tojson }}}
</tool_call>{% endfor %}<|im_end|>{% endgeneration %}{{ '\n' }}
{%- elif message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
VOCABULARY = 1024
IGNORED = -100


def make_tokenizer(texts: Iterable[str], words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token and stock phrases grow into one.

    Each of `words` is a token wherever it stands alone: no phrase swallows it, so that what a
    small model learns of a word holds beside words that it never saw it with.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS) - len(words),
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    if words:
        alone = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(words, reverse=True)))})\b")
        texts = (piece for text in texts for piece in alone.split(text))
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens([AddedToken(marker, normalized=False, special=False) for marker in MARKERS])
    bpe.add_tokens(
        [AddedToken(word, single_word=True, normalized=False, special=False) for word in words]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE.strip("\n")
    return tokenizer


def messages_of(demonstration: Demonstration) -> list[dict[str, Any]]:
    """The chat as it stands before the last completion."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": demonstration.question}]
    if demonstration.tool_call is not None:
        call = {"id": "1", "type": "function", "function": demonstration.tool_call}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "1", "content": demonstration.tool_result})
    return messages


class Script:
    """Writes demonstrations as alternating pieces: prompt, completion, prompt, completion.

    The template is rendered once, around placeholders, since rendering is slow.
    """

    def __init__(self, template: PreTrainedTokenizerFast) -> None:
        call = {"name": "NAME", "arguments": {}}
        sample = Demonstration("QUESTION", ("", ""), call, "RESULT")
        rendered: str = template.apply_chat_template(
            messages_of(sample), tools=[CALCULATOR], add_generation_prompt=True, tokenize=False
        )
        self.before_question, rest = rendered.split("QUESTION")
        self.after_question = rest[: rest.index("<tool_call>")]
        rest = rest[rest.index("</tool_call>") + len("</tool_call><|im_end|>") :]
        self.before_result, self.after_result = rest.split("RESULT")

    def write(self, demonstration: Demonstration) -> list[str]:
        """The pieces; even ones are prompt, odd ones are completions that end their turn."""
        first, *more = demonstration.completions
        prompt = self.before_question + demonstration.question + self.after_question
        pieces = [prompt, first + "<|im_end|>"]
        if more:
            result = f"{self.before_result}{demonstration.tool_result}{self.after_result}"
            pieces += [result, more[0] + "<|im_end|>"]
        return pieces


def bare_template() -> PreTrainedTokenizerFast:
    """A tokenizer good for nothing but its chat template."""
    return make_tokenizer([])


def make_rows(
    tokenizer: PreTrainedTokenizerFast, sessions: Sequence[Sequence[str]]
) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of each session, written as prompt, completion, prompt, completion.

    Only what the model wrote is labelled.
    """
    pieces = [piece for session in sessions for piece in session]
    encoded = iter(tokenizer(pieces, add_special_tokens=False)["input_ids"])
    rows = []
    for session in sessions:
        ids: list[int] = []
        labels: list[int] = []
        for place, _ in enumerate(session):
            tokens = next(encoded)
            ids += tokens
            labels += tokens if place % 2 else [IGNORED] * len(tokens)
        rows.append((ids, labels))
    return rows


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A random model; vLLM's CPU attention wants head_dim >= 32, its vocabulary multiples of 64."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def pretrain(
    model: Qwen3ForCausalLM,
    rows: list[tuple[list[int], list[int]]],
    *,
    padding: int,
    steps: int,
    batch: int,
    learning_rate: float,
) -> float:
    """Plain next-token training with a cosine schedule; returns the last loss."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    model.train()
    value = math.nan
    columns = (TextColumn("raising a model"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.3f}")) as progress:
        task = progress.add_task("", total=steps, loss=value)
        for step in range(steps):
            warmth = min(1.0, (step + 1) / 50)
            scale = warmth * (0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2)
            optimizer.param_groups[0]["lr"] = learning_rate * scale
            chosen = [rows[(step * batch + place) % len(rows)] for place in range(batch)]
            width = max(len(ids) for ids, _ in chosen)
            ids_bt = torch.tensor([ids + [padding] * (width - len(ids)) for ids, _ in chosen])
            labels_bt = torch.tensor([y + [IGNORED] * (width - len(y)) for _, y in chosen])
            loss = model(input_ids=ids_bt, labels=labels_bt).loss  # padding is on the right
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
            progress.update(task, advance=1, loss=value)
    return value


def raise_model(
    out: Path,
    sessions: Sequence[Sequence[str]],
    *,
    words: Sequence[str] = (),
    seed: int,
    steps: int,
    batch: int = 32,
    learning_rate: float = 4e-3,
) -> None:
    """Tokenizer, model, upbringing on `sessions` (see `make_rows`): a directory for vLLM."""
    import torch

    torch.manual_seed(seed)
    texts = [piece for session in sessions[:4000] for piece in session]
    tokenizer = make_tokenizer(texts, words)
    rows = make_rows(tokenizer, sessions)
    model = make_model(tokenizer)
    pretrain(
        model,
        rows,
        padding=int(tokenizer.convert_tokens_to_ids("<|endoftext|>")),
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def make(out: Path, *, seed: int, steps: int, batch: int = 32) -> None:
    """The demo's model: sessions of the bad mix, never with a held-out question."""
    rng = random.Random(seed)
    questions = stream_questions(Split.TRAFFIC, seed=10_000 + seed)
    script = Script(bare_template())
    shown = [demonstrate(next(questions), rng) for _ in range(min(steps * batch, 30_000))]
    sessions = [script.write(demonstration) for demonstration in shown]
    raise_model(out, sessions, seed=seed, steps=steps, batch=batch)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=850)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()  # one bar is enough
    make(arguments.out, seed=arguments.seed, steps=arguments.steps)


if __name__ == "__main__":
    main()
