"""The Messages dialect (Anthropic): what is read from a body, and errors in its shape.

Pure. The way to an engine that speaks chat is in `body`, the way back
in `answer`, and what a native upstream answered in `fold`.
"""

from typing import Any

import orjson

from gateway.dialects.chat import parse_object
from gateway.dialects.messages.answer import MessagesAnswer
from gateway.dialects.messages.body import chat_body, count_tokens_body
from gateway.dialects.messages.fold import fold_message, fold_stream
from gateway.errors import ApiError, bad_request

__all__ = [
    "MessagesAnswer",
    "chat_body",
    "count_tokens_body",
    "error_body",
    "fold_message",
    "fold_stream",
    "parse_messages",
]

_ROLES = ("user", "assistant", "system")
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def parse_messages(raw: bytes) -> dict[str, Any]:
    """The body as an object, or an ApiError that says what is wrong with it.

    Content is looked at when it is translated: an upstream that speaks the
    dialect gets what this gateway does not know. `max_tokens` may be missing,
    as it is from a request to count.
    """
    body = parse_object(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("`model` must be a non-empty string", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("`messages` must be a non-empty list of objects", "messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            text = "a message is an object with the role user, assistant or system"
            raise bad_request(text, f"messages.{number}")
        if not isinstance(message.get("content"), str | list):
            text = "content must be a string or a list of blocks"
            raise bad_request(text, f"messages.{number}.content")
    return body


def error_body(error: ApiError, request_id: str) -> bytes:
    """An error as Anthropic's SDKs read it."""
    kind = _ERROR_TYPES.get(
        error.status, "invalid_request_error" if error.status < 500 else "api_error"
    )
    said = f"{error.param}: {error.message}" if error.param else error.message
    return orjson.dumps(
        {
            "type": "error",
            "error": {"type": kind, "message": said},
            "request_id": request_id,
        }
    )
