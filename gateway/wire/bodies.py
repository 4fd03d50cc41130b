"""Request bodies under a limit, and the end of a client's patience. Bare ASGI."""

import asyncio
from typing import Any

from gateway.errors import ApiError, Receive, Scope

BODY_SECONDS = 60


class ClientLeft(Exception):
    """The client hung up before its request was whole."""


async def read_body(
    scope: Scope, receive: Receive, limit_bytes: int, seconds: float = BODY_SECONDS
) -> bytes:
    """The whole body. Raises ApiError 413 before it holds more than the limit, 408 on a stall."""
    check_length(scope, limit_bytes)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit_bytes:
                    raise too_large(limit_bytes)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except TimeoutError as error:
        text = f"the body did not arrive within {seconds:g} seconds"
        raise ApiError(408, "body_timeout", text) from error


def check_length(scope: Scope, limit_bytes: int) -> None:
    """Refuse a body that says itself that it is too large."""
    declared = whole_number(header(scope, b"content-length"))
    if declared is not None and declared > limit_bytes:
        raise too_large(limit_bytes)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, "too_large", f"the body is larger than {limit_bytes} bytes")


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def whole_number(text: str | None) -> int | None:
    """A header's number; None when it is none. (`isdigit` alone takes a superscript for one.)"""
    if text is None or len(text) > 20 or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


async def disconnected(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return
