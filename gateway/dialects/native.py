"""An answer from an upstream that speaks its client's dialect: the bytes, and no more.

Pure. Only the model's name may have to change. The event that ends a stream
waits for `finish`, so that the record is written before it leaves.
"""

import re
from collections.abc import Callable
from typing import Any

import orjson

from gateway.dialects.fold import Folded
from gateway.dialects.sse import EventSplitter, parse_chunk
from gateway.errors import ApiError

_PROMPT_TOKENS = re.compile(rb'"prompt_tokens"\s*:\s*([0-9]{1,12})')
_TAIL_BYTES = 1024  # of an answer; usage stands at its end
_LAST = re.compile(
    rb"^event: ?(?:message_stop|response\.completed|response\.incomplete|response\.failed)\s",
    re.MULTILINE,
)


class NativeReply:
    """See `reply.Reply`."""

    def __init__(
        self,
        fold: Callable[[dict[str, Any]], Folded],
        refuse: Callable[[ApiError], bytes],
        *,
        model: str,
        alias: str | None,
    ) -> None:
        self._fold = fold
        self._refuse = refuse
        self._splitter = EventSplitter()
        self._tail = b""
        self._named = self._renamed = b""
        if alias is not None and alias != model:
            self._named, self._renamed = orjson.dumps(model), orjson.dumps(alias)
        self.is_done = False
        self.usage: dict[str, Any] | None = None

    @property
    def needs_bytes(self) -> bool:
        return True

    def folded(self) -> Folded:
        return Folded()

    def feed(self, piece: bytes) -> bytes:
        """The same bytes up to the event that ends the stream."""
        if self.is_done:
            self._tail += piece
            return b""
        events = self._splitter.feed(piece)
        for number, event in enumerate(events):
            if _LAST.search(event):
                self.is_done = True
                self._note_usage(event)
                self._tail = b"".join(events[number:]) + self._splitter.flush()
                events = events[:number]
                break
        return self._rename(b"".join(events))

    def finish(self) -> bytes:
        """The event that ends the stream, and what came behind it."""
        return self._rename(self._tail) if self.is_done else b""

    def broken(self, code: str, message: str) -> bytes:
        """An error event, as both dialects have one."""
        return b"event: error\ndata: %b\n\n" % self._refuse(ApiError(502, code, message))

    def whole(self, raw: bytes) -> tuple[bytes, Folded]:
        """The bytes of a whole answer, and what is recorded of it."""
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = None
        folded = self._fold(answer) if isinstance(answer, dict) else Folded(garbage=1)
        return self._rename(raw), folded

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """An error: it leaves as it came."""
        return raw, Folded(error=raw[:500].decode("utf-8", "replace"), is_done=True)

    def _note_usage(self, event: bytes) -> None:
        chunk = parse_chunk(event) or {}
        response = chunk.get("response")
        usage = response.get("usage") if isinstance(response, dict) else None
        if isinstance(usage, dict):
            prompt, completion = usage.get("input_tokens"), usage.get("output_tokens")
            self.usage = {"prompt_tokens": prompt, "completion_tokens": completion}

    def _rename(self, content: bytes) -> bytes:
        if not self._named or self._named not in content:
            return content
        member = re.compile(rb'"model"\s*:\s*' + re.escape(self._named))
        # Once: what else is called so belongs to what was said.
        return member.sub(lambda _: b'"model":' + self._renamed, content, count=1)


class EmbeddingsReply(NativeReply):
    """Embeddings: a whole answer only, and nothing of it is looked at but its usage."""

    def whole(self, raw: bytes) -> tuple[bytes, Folded]:
        found = _PROMPT_TOKENS.search(raw, max(0, len(raw) - _TAIL_BYTES))
        usage = {"prompt_tokens": int(found[1]), "completion_tokens": 0} if found else None
        return self._rename(raw), Folded(usage=usage, is_done=True)
