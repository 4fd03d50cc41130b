"""Errors outside the hot path, in the shape that the client's SDK reads.

Which dialect a request speaks is seen from its path, or from the header that
Anthropic's clients always send.
"""

from gateway.dialects import messages
from gateway.errors import ApiError, Scope, Send, send_bytes
from gateway.wire.bodies import header
from trajectories.ids import new_id

_MESSAGES = "/v1/messages"


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the client is one of Anthropic's API."""
    path: str = scope["path"]
    is_theirs = path == _MESSAGES or path.startswith(f"{_MESSAGES}/")
    return is_theirs or header(scope, b"anthropic-version") is not None


def refusal(scope: Scope, error: ApiError) -> tuple[dict[str, str], bytes]:
    """Headers and JSON of an error for this request's client."""
    request_id = new_id("tr")
    headers = {**error.headers, "x-request-id": request_id}
    if speaks_anthropic(scope):
        return headers, messages.error_body(error, request_id)
    return headers, error.body


async def refuse(scope: Scope, send: Send, error: ApiError) -> None:
    """Answer with `error` over bare ASGI."""
    named, body = refusal(scope, error)
    headers = [(name.encode(), value.encode()) for name, value in named.items()]
    headers.append((b"content-type", b"application/json"))
    await send_bytes(send, error.status, headers, body)
