"""A whole answer out of what the engine sent: one JSON body, or all events of a stream.

Pure, and done once, after the last byte: while a stream runs its bytes are only
kept. Chunks without a delta carry token ids too (the tool parser is buffering),
so every chunk counts.
"""

from dataclasses import dataclass, field
from typing import Any

from gateway.dialects.chat import as_logprobs, as_text, as_token_ids, choices_of
from gateway.dialects.sse import EventSplitter, event_payload, is_done, parse_chunk
from trajectories.model import Choice


@dataclass(frozen=True, slots=True)
class Folded:
    """A whole stream as one answer."""

    response_id: str | None = None
    choices: tuple[Choice, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    usage: dict[str, Any] | None = None
    error: str | None = None
    is_done: bool = False
    garbage: int = 0  # events that could not be read

    @property
    def is_complete(self) -> bool:
        """Whether the engine ended every answer, and ended it well."""
        return (
            self.is_done
            and self.error is None
            and self.garbage == 0
            and bool(self.choices)
            and all(c.finish_reason not in (None, "abort", "error") for c in self.choices)
        )


@dataclass(slots=True)
class _Answer:
    message: dict[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        for name, value in (delta if isinstance(delta, dict) else {}).items():
            if name == "tool_calls":
                self._add_calls(value)
            elif isinstance(value, str) and isinstance(self.message.get(name), str):
                if name != "role":
                    self.message[name] += value
            elif value is not None or name not in self.message:
                self.message[name] = value
        self.token_ids.extend(as_token_ids(choice.get("token_ids")))
        self.logprobs.extend(as_logprobs(choice.get("logprobs")))
        self.finish_reason = as_text(choice.get("finish_reason")) or self.finish_reason

    def _add_calls(self, pieces: object) -> None:
        for position, piece in enumerate(pieces if isinstance(pieces, list) else []):
            if not isinstance(piece, dict):
                continue
            index = piece.get("index")
            call = self.calls.setdefault(
                index if isinstance(index, int) else position,
                {"id": None, "type": "function", "function": {"name": "", "arguments": ""}},
            )
            call["id"] = call["id"] or as_text(piece.get("id"))
            function = piece.get("function")
            for name, value in (function if isinstance(function, dict) else {}).items():
                if isinstance(value, str):
                    call["function"][name] = call["function"].get(name, "") + value

    def choice(self, index: int) -> Choice:
        message = {"role": "assistant", "content": None, **self.message}
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        return Choice(
            index=index,
            message=message,
            finish_reason=self.finish_reason,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
        )


def fold_answer(answer: dict[str, Any]) -> Folded:
    """A whole (not streamed) answer in the same form."""
    usage = answer.get("usage")
    error = answer.get("error")
    return Folded(
        response_id=as_text(answer.get("id")),
        choices=choices_of(answer),
        prompt_token_ids=as_token_ids(answer.get("prompt_token_ids")),
        usage=usage if isinstance(usage, dict) else None,
        error=_error_text(error) if error is not None else None,
        is_done=True,
    )


def fold(stream: bytes) -> Folded:
    """One answer out of the raw bytes of a stream. Done once, after its last byte."""
    splitter = EventSplitter()
    events = splitter.feed(stream)
    answers: dict[int, _Answer] = {}
    response_id: str | None = None
    prompt_token_ids: tuple[int, ...] = ()
    usage: dict[str, Any] | None = None
    error: str | None = None
    rest = splitter.flush()
    has_done = is_done(rest)  # some engines leave out the last blank line
    garbage = int(bool(rest.strip()) and not has_done)
    for event in events:
        if is_done(event):
            has_done = True
            continue
        chunk = parse_chunk(event)
        if chunk is None:
            garbage += event_payload(event) is not None
            continue
        if chunk.get("error") is not None:
            error = error or _error_text(chunk["error"])
        response_id = response_id or as_text(chunk.get("id"))
        prompt_token_ids = prompt_token_ids or as_token_ids(chunk.get("prompt_token_ids"))
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        choices = chunk.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else []):
            if isinstance(choice, dict):
                index = choice.get("index")
                key = index if isinstance(index, int) else position
                answers.setdefault(key, _Answer()).add(choice)
    folded = tuple(answer.choice(index) for index, answer in sorted(answers.items()))
    return Folded(
        response_id=response_id,
        choices=folded,
        prompt_token_ids=prompt_token_ids,
        usage=usage or _counted_usage(prompt_token_ids, folded),
        error=error,
        is_done=has_done,
        garbage=garbage,
    )


def _counted_usage(prompt: tuple[int, ...], choices: tuple[Choice, ...]) -> dict[str, Any] | None:
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
