"""An answer in chat that its client reads in another dialect.

Pure. The client's events are made from the engine's chunks as they come; what
was asked for beside (ids, logprobs) stays in the engine's bytes, which are
recorded, and never reaches the client.
"""

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from gateway.dialects.cutting import cut_answer
from gateway.dialects.fold import Folded, StreamFold, fold_answer
from gateway.dialects.sse import EventSplitter, is_done, parse_chunk
from gateway.errors import ApiError


class Answer(Protocol):
    """One answer in the client's dialect: a `ResponsesAnswer` or a `MessagesAnswer`."""

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The client's object for a chat completion."""

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """The client's events for a chunk."""

    def finish(self) -> bytes:
        """The closing events."""

    def broken(self, code: str, message: str) -> bytes:
        """The events that say that nothing more will come."""


class TranslatedReply:
    """See `reply.Reply`."""

    def __init__(
        self,
        answer: Answer,
        refuse: Callable[[ApiError], bytes] | None,
        *,
        shows_logprobs: bool = False,
    ) -> None:
        """`refuse` writes an error as the client reads it; None: as the engine does."""
        self._answer = answer
        self._refuse = refuse
        self._shows_logprobs = shows_logprobs
        self._splitter = EventSplitter()
        self._fold = StreamFold()
        self.is_done = False

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of the engine's answer: as told, else as counted so far."""
        return self._fold.usage

    @property
    def needs_bytes(self) -> bool:
        return False  # each chunk is parsed anyway

    def folded(self) -> Folded:
        """What the engine has said so far."""
        return self._fold.folded(is_done=self.is_done)

    def feed(self, piece: bytes) -> bytes:
        """The client's events for a piece of the engine's stream."""
        if self.is_done:
            return b""
        return b"".join([self._read(event) for event in self._splitter.feed(piece)])

    def finish(self) -> bytes:
        """The closing events; nothing when the engine's stream was not whole."""
        if not self.is_done and is_done(self._splitter.flush()):
            self.is_done = True
        return self._answer.finish() if self.is_done else b""

    def broken(self, code: str, message: str) -> bytes:
        """The events that say that nothing more will come."""
        return self._answer.broken(code, message)

    def whole(self, raw: bytes) -> tuple[bytes, Folded]:
        """The client's object for a whole answer, and what is recorded of it.

        Raises ApiError 502 when the engine's bytes are no answer.
        """
        cut = None if self._shows_logprobs else cut_answer(raw)
        rest, folded = cut or (raw, None)
        try:
            answer = orjson.loads(rest)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(502, "upstream_garbage", "the engine's answer is not JSON")
        return orjson.dumps(self._answer.whole(answer)), folded or fold_answer(answer)

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """The engine's error in the client's shape."""
        try:
            found = orjson.loads(raw)
        except orjson.JSONDecodeError:
            found = None
        error = found.get("error", found) if isinstance(found, dict) else None
        said = error if isinstance(error, dict) else {}
        message = str(said.get("message") or f"the upstream answered with {status}")
        code = said.get("code") if isinstance(said.get("code"), str) else "upstream_error"
        body = raw if self._refuse is None else self._refuse(ApiError(status, str(code), message))
        return body, Folded(error=message[:500], is_done=True)

    def _read(self, event: bytes) -> bytes:
        if self.is_done:
            return b""
        if is_done(event):
            self.is_done = True
            return b""
        chunk = parse_chunk(event)
        self._fold.add(event, chunk)
        if chunk is None:
            return b""
        return self._answer.chunk(chunk)
