"""A whole answer out of what the engine sent: one JSON body, or all events of a stream.

Pure, and done once, after the last byte: while a stream runs its bytes are only
kept. Chunks without a delta carry token ids too (the tool parser is buffering),
so every chunk counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.dialects.chat import FoldedChoice, as_logprobs, as_text, as_token_ids, choices_of
from gateway.dialects.sse import DONE, EventSplitter, event_payload, is_done, parse_chunk


@dataclass(slots=True)
class Folded:
    """A whole stream as one answer."""

    response_id: str | None = None
    choices: tuple[FoldedChoice, ...] = ()
    prompt_token_ids: Sequence[int] | orjson.Fragment = ()
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
    texts: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name == "tool_calls":
                self._add_calls(value)
            elif isinstance(value, str) and name != "role":
                pieces = self.texts.get(name)
                if pieces is None:
                    self.texts[name] = [value]
                    self.message[name] = None  # keeps its place
                else:
                    pieces.append(value)
            elif value is not None or name not in self.message:
                self.message[name] = value
        if choice.get("token_ids"):
            self.token_ids.extend(as_token_ids(choice["token_ids"]))
        if choice.get("logprobs"):
            self.logprobs.extend(as_logprobs(choice["logprobs"]))
        if choice.get("finish_reason"):
            self.finish_reason = as_text(choice["finish_reason"]) or self.finish_reason

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

    def choice(self, index: int) -> FoldedChoice:
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        message = {"role": "assistant", "content": None, **self.message, **texts}
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        return FoldedChoice(
            index=index,
            message=message,
            finish_reason=self.finish_reason,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
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
    chunks, has_done, garbage = read_chunks(stream)
    answers: dict[int, _Answer] = {}
    response_id: str | None = None
    prompt_token_ids: Sequence[int] = ()
    usage: dict[str, Any] | None = None
    error: str | None = None
    for chunk in chunks:
        if chunk.get("error") is not None:
            error = error or _error_text(chunk["error"])
        if response_id is None:
            response_id = as_text(chunk.get("id"))
        if not prompt_token_ids:
            prompt_token_ids = as_token_ids(chunk.get("prompt_token_ids"))
        if isinstance(chunk.get("usage"), dict):
            usage = chunk["usage"]
        choices = chunk.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index = choice.get("index")
                key = index if isinstance(index, int) else position
                answer = answers.get(key)
                if answer is None:
                    answer = answers[key] = _Answer()
                answer.add(choice)
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


def read_chunks(stream: bytes) -> tuple[list[dict[str, Any]], bool, int]:
    """The chunks of a chat stream, whether [DONE] came, and how many events were unreadable."""
    if b"\r" not in stream and stream.startswith(b"data: "):
        plain = stream.rstrip(b"\n")[6:].split(b"\n\ndata: ")
        has_done = plain[-1].strip() == DONE
        try:
            # All at once: parsing fifty small documents costs three times as much as one.
            chunks = orjson.loads(b"[%b]" % b",".join(plain[:-1] if has_done else plain))
        except orjson.JSONDecodeError:
            pass
        else:
            # Anything else between the commas would have made more or fewer of them.
            if len(chunks) == len(plain) - has_done and all(type(c) is dict for c in chunks):
                return chunks, has_done, 0
    return _read_each(stream)


def _read_each(stream: bytes) -> tuple[list[dict[str, Any]], bool, int]:
    splitter = EventSplitter()
    events = splitter.feed(stream)
    rest = splitter.flush()
    has_done = is_done(rest)  # some engines leave out the last blank line
    garbage = int(bool(rest.strip()) and not has_done)
    chunks: list[dict[str, Any]] = []
    for event in events:
        if is_done(event):
            has_done = True
            continue
        chunk = parse_chunk(event)
        if chunk is None:
            garbage += event_payload(event) is not None
        else:
            chunks.append(chunk)
    return chunks, has_done, garbage


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
