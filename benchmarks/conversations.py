"""Conversations to measure the store with: English text, as many turns and bytes as asked for.

The text is that of the docstrings in Python's own library, cut into sentences
and shuffled, so that every machine has it and no two messages are the same.
"""

import ast
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trajectories.ids import derived_id, new_id
from trajectories.model import Choice, Sampling, Transition

SYSTEM_BYTES = 2_048
MESSAGE_BYTES = 620  # 20 turns of these are 16 KB a record on average


@cache
def sentences() -> tuple[str, ...]:
    """Every sentence of a docstring in the standard library, once."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) + sorted(
        Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py")
    ):
        if "site-packages" in str(path):
            continue
        try:
            tree = ast.parse(path.read_text())
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").split())
                found.update(dict.fromkeys(part for part in text.split(". ") if len(part) > 30))
    return tuple(found)


class Talk:
    """Makes texts of about a length, out of sentences in an order of its own."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def say(self, size: int) -> str:
        text = ""
        while len(text) < size:
            text += self._random.choice(sentences()) + ". "
        return text[:size]


def conversation(
    number: int,
    *,
    turns: int = 20,
    system_bytes: int = SYSTEM_BYTES,
    message_bytes: int = MESSAGE_BYTES,
    is_named: bool = True,
    has_tokens: bool = False,
    started_at: float = 1_764_000_000.0,
) -> Iterator[Transition]:
    """The transitions of one conversation, as the gateway records them for an OpenAI SDK."""
    talk = Talk(number)
    chance = random.Random(number)
    said: list[dict[str, Any]] = [{"role": "system", "content": Talk(-1).say(system_bytes)}]
    session = f"session-{number}"
    ids: list[int] = []
    for turn in range(turns):
        question, answer = talk.say(message_bytes - 40), talk.say(message_bytes - 40)
        said = [*said, {"role": "user", "content": question}]
        prompt = [*ids, *_token_ids(chance, (said[0]["content"] if turn == 0 else "") + question)]
        answered = _token_ids(chance, answer)
        logprobs = [_single(-chance.expovariate(2.0)) for _ in answered]
        usage = {"prompt_tokens": 400 * turn, "completion_tokens": 150, "total_tokens": 550}
        response = f"chatcmpl-{chance.randbytes(16).hex()}"
        yield Transition(
            id=new_id("tr"),
            trajectory_id=derived_id("traj", "default", "session", session)
            if is_named
            else new_id("traj"),
            session_id=session if is_named else None,
            session_source="header" if is_named else "new",
            key="key_benchmark",
            gateway="gw_019a2f00000000000000000000",
            started_at=started_at + number * 0.01 + turn * 12.0,
            latency_seconds=chance.uniform(0.5, 4.0),
            request={"model": "policy", "messages": said, "temperature": 0.7, "max_tokens": 512},
            response_id=response,
            request_id=f"req_{chance.randbytes(12).hex()}",
            policy="policy",
            policy_version=3,
            model="policy-v3-0123456789ab",
            sampling=Sampling(temperature=0.7, max_tokens=512),
            prompt_token_ids=tuple(prompt) if has_tokens else (),
            choices=(
                Choice(
                    message={"role": "assistant", "content": answer, "refusal": None},
                    finish_reason="stop",
                    token_ids=tuple(answered) if has_tokens else (),
                    logprobs=tuple(logprobs) if has_tokens else (),
                ),
            ),
            usage=usage,
        )
        said = [*said, {"role": "assistant", "content": answer}]
        ids = [*prompt, *answered]


def _token_ids(chance: random.Random, text: str) -> list[int]:
    """As many ids as a tokenizer would make of it; common ones are small, as with BPE."""
    return [min(151_000, int(chance.paretovariate(0.35))) for _ in range(len(text) // 4)]


def _single(value: float) -> float:
    """The nearest float32: engines compute logprobs so."""
    from array import array

    return array("f", [value])[0]
