"""Error replies in the shape OpenAI's SDKs read.

Pure bodies and headers, plus one way to send them over bare ASGI. Deeper
modules raise `ApiError`; the routes answer with it. Never a 409: SDKs retry it.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from trajectories.errors import RatchetError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(RatchetError):
    """An answer that is an error, with everything a client needs to act on it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = details or {}
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        elif 400 <= status < 500 and status != 429:
            # openai-python would retry a 408 or 409; nothing of ours gets better by repeating.
            self.headers.setdefault("x-should-retry", "false")

    @property
    def body(self) -> bytes:
        """The reply's JSON."""
        error = error_object(self.status, self.code, self.message, self.param)
        error["error"].update(self.details)
        return orjson.dumps(error)

    @property
    def head(self) -> bytes:
        """The reply's header lines."""
        lines = [b"content-type: application/json\r\n"]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in self.headers.items()]
        return b"".join(lines)


def error_object(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """`{"error": {...}}` as OpenAI writes it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None = None, code: str = "bad_request") -> ApiError:
    """A 400 that says what is wrong with the body."""
    return ApiError(400, code, message, param=param)


def stream_error(code: str, message: str) -> bytes:
    """The event that tells an SDK, after the first byte, that the answer is broken."""
    return b"data: " + orjson.dumps(error_object(502, code, message)) + b"\n\n"


async def send_bytes(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """A whole answer over bare ASGI."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
