"""A whole completion out of what the engine sent: one JSON body, or all events of a stream.

Pure, and done once, after the last byte. The text becomes an assistant message,
so that all dialects are recorded alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.dialects.chat import FoldedChoice, as_text, as_token_ids
from gateway.dialects.fold import Folded, read_chunks

_NUMBERS = frozenset({float, int})


@dataclass(slots=True)
class _Answer:
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_token_ids: Sequence[int] = ()
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        self.texts.append(as_text(choice.get("text")) or "")
        self.token_ids.extend(as_token_ids(choice.get("token_ids")))
        self.logprobs.extend(_logprobs(choice.get("logprobs")))
        self.prompt_token_ids = self.prompt_token_ids or as_token_ids(
            choice.get("prompt_token_ids")
        )
        self.finish_reason = as_text(choice.get("finish_reason")) or self.finish_reason

    def choice(self, index: int, *, has_ids: bool) -> FoldedChoice:
        return FoldedChoice(
            index=index,
            message={"role": "assistant", "content": "".join(self.texts)},
            finish_reason=self.finish_reason,
            token_ids=self.token_ids if has_ids else [],
            logprobs=self.logprobs,
        )


def fold_answer(answer: dict[str, Any]) -> Folded:
    """A whole (not streamed) answer."""
    return _fold([answer], is_done=True, garbage=0)


def fold_stream(stream: bytes) -> Folded:
    """One answer out of the raw bytes of a stream."""
    chunks, has_done, garbage = read_chunks(stream)
    return _fold(chunks, is_done=has_done, garbage=garbage)


def _fold(chunks: list[dict[str, Any]], *, is_done: bool, garbage: int) -> Folded:
    answers: dict[int, _Answer] = {}
    response_id: str | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None
    for chunk in chunks:
        if chunk.get("error") is not None:
            error = error or _error_text(chunk["error"])
        response_id = response_id or as_text(chunk.get("id"))
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        choices = chunk.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index = choice.get("index")
                key = index if isinstance(index, int) else position
                answers.setdefault(key, _Answer()).add(choice)
    prompts = [answer.prompt_token_ids for answer in answers.values() if answer.prompt_token_ids]
    prompt = prompts[0] if prompts else ()
    # Answers to different prompts share no prompt, so none of them can be learned from; and with
    # `echo` the prompt's ids come unasked, but not the answer's.
    has_ids = all(other == prompt for other in prompts) and any(
        answer.token_ids for answer in answers.values()
    )
    folded = tuple(
        answer.choice(index, has_ids=has_ids) for index, answer in sorted(answers.items())
    )
    return Folded(
        response_id=response_id,
        choices=folded,
        prompt_token_ids=prompt if has_ids else (),
        usage=usage or _counted_usage(prompt if has_ids else (), folded),
        error=error,
        is_done=is_done,
        garbage=garbage,
    )


def _logprobs(value: object) -> list[float]:
    """The sampled tokens' logprobs, or nothing when one is missing (an echoed prompt's first)."""
    found = value.get("token_logprobs") if isinstance(value, dict) else None
    return found if isinstance(found, list) and _NUMBERS.issuperset(map(type, found)) else []


def _counted_usage(
    prompt: Sequence[int], choices: tuple[FoldedChoice, ...]
) -> dict[str, Any] | None:
    if not prompt:
        return None
    completion = sum(len(choice.token_ids) for choice in choices)
    return {
        "prompt_tokens": len(prompt),
        "completion_tokens": completion,
        "total_tokens": len(prompt) + completion,
    }


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]
