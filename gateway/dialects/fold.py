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


@dataclass(slots=True, init=False)
class Folded:
    """A whole stream as one answer."""

    response_id: str | None
    choices: tuple[FoldedChoice, ...]
    prompt_token_ids: Sequence[int] | orjson.Fragment
    usage: dict[str, Any] | None
    error: str | None
    is_done: bool
    garbage: int  # events that could not be read

    def __init__(
        self,
        response_id: str | None = None,
        choices: tuple[FoldedChoice, ...] = (),
        prompt_token_ids: Sequence[int] | orjson.Fragment = (),
        usage: dict[str, Any] | None = None,
        error: str | None = None,
        *,
        is_done: bool = False,
        garbage: int = 0,
    ) -> None:
        self.response_id = response_id
        self.choices = choices
        self.prompt_token_ids = prompt_token_ids
        self.usage = usage
        self.error = error
        self.is_done = is_done
        self.garbage = garbage

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
    """One answer of a stream. Texts, ids and logprobs are pieces of JSON, in order."""

    message: dict[str, Any] = field(default_factory=dict)
    texts: dict[bytes, list[bytes]] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    token_ids: list[bytes] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        for name, value in delta.items() if isinstance(delta, dict) else ():
            if name == "tool_calls":
                self._add_calls(value)
            elif isinstance(value, str) and name != "role":
                self.texts.setdefault(name.encode(), []).append(orjson.dumps(value)[1:-1])
            elif value is not None or name not in self.message:
                self.message[name] = value
        if ids := as_token_ids(choice.get("token_ids")):
            self.token_ids.append(orjson.dumps(ids)[1:-1])
        if logprobs := as_logprobs(choice.get("logprobs")):
            self.logprobs.append(orjson.dumps(logprobs)[1:-1])
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
        texts = {name.decode(): _text_of(pieces) for name, pieces in self.texts.items()}
        message = {"role": "assistant", "content": None, **self.message, **texts}
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        return FoldedChoice(
            index=index,
            message=message,
            finish_reason=self.finish_reason,
            token_ids=_joined(self.token_ids),
            logprobs=_joined(self.logprobs),
        )


def _joined(pieces: list[bytes]) -> list[Any]:
    found: list[Any] = orjson.loads(b"[%b]" % b",".join(pieces))
    return found


def _text_of(pieces: list[bytes]) -> str:
    joined = b"".join(pieces)
    try:
        found: str = orjson.loads(b'"%b"' % joined)
    except orjson.JSONDecodeError:  # half a character, escaped: no Unicode to be had from it
        return joined.decode("utf-8", "replace")
    return found


class StreamFold:
    """Folds a chat stream, event by event. The first answer may be added to from outside."""

    __slots__ = ("_answers", "_error", "_garbage", "_prompt_token_ids", "_response_id", "_usage")

    def __init__(self) -> None:
        self._answers: dict[int, _Answer] = {}
        self._response_id: str | None = None
        self._prompt_token_ids: Sequence[int] = ()
        self._usage: dict[str, Any] | None = None
        self._error: str | None = None
        self._garbage = 0

    @property
    def first(self) -> _Answer:
        """The answer of index 0."""
        answer = self._answers.get(0)
        if answer is None:
            answer = self._answers[0] = _Answer()
        return answer

    def add(self, event: bytes, chunk: dict[str, Any] | None) -> None:
        """An event, and what it holds if that can be read."""
        if chunk is None:
            self._garbage += event_payload(event) is not None
            return
        if chunk.get("error") is not None:
            self._error = self._error or _error_text(chunk["error"])
        if self._response_id is None:
            self._response_id = as_text(chunk.get("id"))
        if not self._prompt_token_ids:
            self._prompt_token_ids = as_token_ids(chunk.get("prompt_token_ids"))
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        for position, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index = choice.get("index")
                key = index if isinstance(index, int) else position
                answer = self._answers.get(key)
                if answer is None:
                    answer = self._answers[key] = _Answer()
                answer.add(choice)

    def folded(self, *, is_done: bool, garbage: int = 0) -> Folded:
        """What was said so far."""
        choices = tuple(answer.choice(index) for index, answer in sorted(self._answers.items()))
        return Folded(
            response_id=self._response_id,
            choices=choices,
            prompt_token_ids=self._prompt_token_ids,
            usage=self.usage,
            error=self._error,
            is_done=is_done,
            garbage=self._garbage + garbage,
        )

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of the answer: as told, else as counted so far."""
        return self._usage or self._counted_usage()

    def _counted_usage(self) -> dict[str, Any] | None:
        if not self._prompt_token_ids:
            return None
        prompt = len(self._prompt_token_ids)
        completion = sum(
            piece.count(b",") + 1 for answer in self._answers.values() for piece in answer.token_ids
        )
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


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
    folding = StreamFold()
    for chunk in chunks:
        folding.add(b"", chunk)
    return folding.folded(is_done=has_done, garbage=garbage)


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


def _error_text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)[:500]
