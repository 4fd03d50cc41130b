"""An upstream behind litellm, in the shape of one that is spoken to over HTTP.

The exchange hears the same as from `pool.Connection`: a head, pieces, an end or
a failure. What a provider says as objects becomes the bytes that an
OpenAI-compatible server would have written.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import orjson

from gateway.call import Call
from gateway.dialects.asking import PATHS, Asked
from gateway.errors import ApiError
from gateway.upstreams.balance import Replica
from gateway.upstreams.pool import Listener
from gateway.upstreams.server import Replicated
from gateway.wire.headers import AnswerHead, RawHeaders
from trajectories.settings import BreakerSettings, Patience

logger = logging.getLogger(__name__)

Body = dict[str, Any]
_CLOSING_SECONDS = 2.0
_JSON: RawHeaders = [(b"content-type", b"application/json")]
_EVENTS: RawHeaders = [(b"content-type", b"text/event-stream")]


class Speaker(Protocol):
    """What is needed of `provider.Provider`."""

    async def complete(self, body: Body, model: str, timeout: float) -> Body:
        """A whole chat completion. Raises ApiError."""

    def stream(self, body: Body, model: str, timeout: float) -> AsyncGenerator[Body, None]:
        """Its chunks. Raises ApiError."""

    async def embed(self, body: Body, model: str, timeout: float) -> Body:
        """A list of embeddings. Raises ApiError."""

    async def close(self) -> None:
        """Let go of its connections."""


class Foreign(Replicated):
    """What answers under one name, through a provider's library."""

    def __init__(
        self, name: str, speaker: Speaker, *, patience: Patience, breaker: BreakerSettings
    ) -> None:
        super().__init__(name, (name,), patience=patience, breaker=breaker)
        self._speaker = speaker
        self._running: set[_Answering] = set()

    def send(self, replica: Replica, listener: Listener, asked: Asked, call: Call) -> None:
        """Ask; `listener` hears the answer. Its clock says for how long to wait."""
        body: Body = orjson.loads(asked.payload)
        if asked.path == PATHS["embeddings"]:
            kind, timeout = "embed", self.first_byte_seconds
        elif body.get("stream"):
            kind, timeout = "stream", max(self.first_byte_seconds, self.idle_seconds)
        else:
            kind, timeout = "complete", self.first_byte_seconds
        answering = _Answering(self._speaker, listener, kind, body, timeout)
        self._running.add(answering)
        answering.task.add_done_callback(lambda _: self._running.discard(answering))

    def drop_idle(self, now: float) -> None:
        """Idle connections are the library's own business."""

    def close(self) -> None:
        for answering in list(self._running):
            answering.cancel()

    async def closed(self) -> None:
        """Wait a moment until nothing runs, then let go of the connections."""
        if self._running:
            await asyncio.wait([one.task for one in self._running], timeout=_CLOSING_SECONDS)
        await self._speaker.close()


class _Answering:
    """One answer; the listener's carrier."""

    is_open = True  # nobody outside the library knows

    def __init__(
        self, speaker: Speaker, listener: Listener, kind: str, body: Body, timeout: float
    ) -> None:
        self._speaker = speaker
        self._listener: Listener | None = listener
        self._body = body
        self._timeout = timeout
        self._may_go = asyncio.Event()
        self._may_go.set()
        self._has_head = False
        listener.carrier = self
        self.task = asyncio.ensure_future(self._stream() if kind == "stream" else self._whole(kind))
        self.task.add_done_callback(self._on_end)

    # -- what the listener does ----------------------------------------------------

    def cancel(self) -> None:
        self._listener = None
        self.task.cancel()

    def pause(self) -> None:
        self._may_go.clear()

    def resume(self) -> None:
        self._may_go.set()

    # -- what the provider says ----------------------------------------------------

    async def _whole(self, kind: str) -> None:
        ask = self._speaker.embed if kind == "embed" else self._speaker.complete
        answer = await ask(self._body, self._body["model"], self._timeout)
        self._say(_JSON, orjson.dumps(answer), is_last=True)

    async def _stream(self) -> None:
        options = self._body.get("stream_options") or {}
        wants_usage = bool(options.get("include_usage"))
        stream = self._speaker.stream(self._body, self._body["model"], self._timeout)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if chunk.get("choices") or wants_usage:
                    self._say(_EVENTS, b"data: " + orjson.dumps(chunk) + b"\n\n")
                await self._may_go.wait()
        self._say(_EVENTS, b"data: [DONE]\n\n", is_last=True)

    def _say(
        self, headers: RawHeaders, piece: bytes, *, status: int = 200, is_last: bool = False
    ) -> None:
        if self._listener is not None and not self._has_head:
            self._has_head = True
            self._listener.on_head(AnswerHead(status, headers))
        listener = self._listener  # it may have hung up just now
        if listener is not None:
            if is_last:
                self._listener = listener.carrier = None
            listener.on_piece(piece, is_last)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None or self._listener is None:
            return
        if not isinstance(error, ApiError):
            # Its text may hold a prompt, or a key.
            logger.error("a provider's library failed: %s", type(error).__name__)
            error = ApiError(502, "upstream_error", "the provider's library failed", retry_after=1)
        if self._has_head:
            listener, self._listener = self._listener, None
            listener.carrier = None
            listener.on_failure(error.code, error.message)
        else:
            headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
            self._say([*_JSON, *headers], error.body, status=error.status, is_last=True)
