"""ASGI layer: one optional key, under any of the three names SDKs send it by."""

import hmac
from collections.abc import Iterable

from gateway.errors import ApiError, Application, Receive, Scope, Send, send_error

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
TENANT = "default"  # one key, one tenant, for now


def offered_keys(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Every credential of a request; clients may send several."""
    found: list[bytes] = []
    for name, value in headers:
        if name in (b"api-key", b"x-api-key"):
            found.append(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            found.append(value[7:].strip())
    return found


class Authorised:
    """Lets a request pass when no key is set, the path is open, or a key fits."""

    def __init__(self, app: Application, api_key: str | None) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._key is None or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        # No short cut on the first that fits: every comparison takes place, in constant time.
        fits = [hmac.compare_digest(key, self._key) for key in offered_keys(scope["headers"])]
        if any(fits):
            await self._app(scope, receive, send)
            return
        message = "the API key is missing or wrong: send it as `Authorization: Bearer <key>`"
        await send_error(send, ApiError(401, "bad_key", message))

    @staticmethod
    def _is_open(scope: Scope) -> bool:
        if scope["path"] in OPEN_PATHS:
            return True
        return bool(scope["method"] == "HEAD" and scope["path"] in ("/", "/v1", "/v1/"))
