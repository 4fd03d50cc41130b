"""ASGI layer: which scope a route needs, and whether the caller has it.

Every route is named here. One that is not needs `admin`: what somebody adds and
forgets to name is closed, not open.
"""

import time
from collections.abc import Iterable

from fastapi import Request

from gateway.access import ADMIN, FEEDBACK, INFERENCE, MODELS, READ, Access, Caller
from gateway.errors import ApiError, Application, Receive, Scope, Send
from gateway.refusals import refuse
from trajectories.access import TENANT

__all__ = ["TENANT", "Authorised", "caller_of", "needed_scope", "offered_keys"]

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
THUMBS = "/f/"
_OF_THUMBS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_VOTES = frozenset({"/v1/feedback", "/v1/feedback/batch", "/v1/feedback/tokens"})
BASE_PATH = "/"  # some clients probe theirs before they have a key
STATE = "caller"
_READING = frozenset({"GET", "HEAD"})
_WRITING = frozenset({FEEDBACK, ADMIN})
# These look themselves at which model is asked for.
_CHECKED_LATER = ("/v1/messages/count_tokens", "/v1/responses")


def offered_keys(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Every credential of a request, in its order; clients may send several."""
    found: list[bytes] = []
    for name, value in headers:
        if name in (b"api-key", b"x-api-key"):
            key = value.strip()
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            key = value[7:].strip()
        else:
            continue
        if key:
            found.append(key)
    return found


def needed_scope(method: str, path: str) -> str | None:
    """The scope that a canonical path needs; None: it is open to all."""
    is_reading = method in _READING
    if (is_reading and path in OPEN_PATHS) or (method == "HEAD" and path == BASE_PATH):
        return None
    if path.startswith(THUMBS) and method in _OF_THUMBS:
        return None  # what a link may do stands in its token
    if (method == "POST" and path in _VOTES) or (
        method == "DELETE" and path.startswith("/v1/feedback/")
    ):
        return FEEDBACK
    if is_reading and _is_below(path, "/v1/feedback", "/v1/trajectories", "/training/status"):
        return READ
    if is_reading and _is_below(path, "/v1/models", "/v1/deployments"):
        return MODELS
    if _is_below(path, "/v1/feedback", "/v1/trajectories"):
        return ADMIN
    if _is_below(path, "/v1", "/openai"):
        return INFERENCE
    return ADMIN


def _is_below(path: str, *roots: str) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def is_reading(scope: Scope) -> bool:
    """Whether a request changes nothing."""
    return scope["method"] in _READING


def check_site(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what a page of another site has a browser send to a gateway that asks for no key.

    A browser says where a page came from; programs say nothing of the kind.
    Raises ApiError 403 `wrong_site`.
    """
    found = dict(headers)
    origin = found.get(b"origin")
    is_foreign = origin is not None and origin.partition(b"//")[2] != found.get(b"host")
    if is_foreign or found.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        message = "a page of another site may not write to a gateway without keys: send an API key"
        raise ApiError(403, "wrong_site", message)


def caller_of(request: Request) -> Caller:
    """On whose behalf a FastAPI route is asked; a dependency."""
    found: Caller = request.scope["state"][STATE]
    return found


class Authorised:
    """Lets a request pass when its path is open, or when its caller has the scope."""

    def __init__(self, app: Application, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            needed = needed_scope(scope["method"], scope["path"])
            if needed is not None:
                try:
                    keys = offered_keys(scope["headers"])
                    caller = self._access.authorise(keys, needed, time.monotonic())
                    if caller.key_id is None and needed in _WRITING and not is_reading(scope):
                        check_site(scope["headers"])
                    is_asking = needed == INFERENCE and not is_reading(scope)
                    if is_asking and not _is_below(scope["path"], *_CHECKED_LATER):
                        # Which model these bodies ask for is not known here.
                        caller.check_model(None)
                except ApiError as error:
                    await refuse(scope, send, error)
                    return
                scope.setdefault("state", {})[STATE] = caller
        await self._app(scope, receive, send)
