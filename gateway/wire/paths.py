"""ASGI layer: what the URL says besides the route.

Peels `/a/{agent}` and `/t/{session}` off the path, adds a missing `/v1` and
collapses a doubled one, so that every route below exists once. It works on the
raw path: a percent-encoded slash must not become a segment.
"""

from collections.abc import Sequence
from urllib.parse import unquote

from gateway.attribution import ID_PATTERN, PathIds
from gateway.errors import ApiError, Application, Receive, Scope, Send, send_error

STATE = "path_ids"
_UNVERSIONED = frozenset(
    {"chat", "completions", "embeddings", "models", "feedback", "trajectories"}
    | {"responses", "messages"}
)


def path_ids(scope: Scope) -> PathIds:
    """What this layer found in the URL."""
    found = scope.get("state", {}).get(STATE)
    return found if isinstance(found, PathIds) else PathIds()


def split_path(raw_path: str) -> tuple[PathIds, str]:
    """The ids in a raw path, and the canonical (still quoted) path without them."""
    segments = raw_path.split("/")[1:]
    agent = session = None
    if len(segments) >= 2 and segments[0] == "a":
        agent, segments = _path_id(segments[1]), segments[2:]
    if len(segments) >= 2 and segments[0] == "t":
        session, segments = _path_id(segments[1]), segments[2:]
    return PathIds(session=session, agent=agent), "/" + "/".join(_versioned(segments))


def _path_id(segment: str) -> str:
    value = unquote(segment)
    if not ID_PATTERN.fullmatch(value):
        raise ApiError(
            400, "bad_id", "an id in the URL is 1 to 128 characters of A-Z a-z 0-9 . _ : ~ -"
        )
    return value


def _versioned(segments: Sequence[str]) -> list[str]:
    rest = list(segments)
    while rest[:2] == ["v1", "v1"]:
        rest = rest[1:]
    if rest and rest[0] in _UNVERSIONED:
        rest = ["v1", *rest]
    if len(rest) > 2 and rest[-1] == "":
        rest = rest[:-1]
    return rest


class PrefixedPaths:
    """Rewrites the path of each request and keeps what it said."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or scope["path"].encode()
            try:
                ids, path = split_path(raw.partition(b"?")[0].decode("latin-1"))
            except ApiError as error:
                await send_error(send, error)
                return
            scope.setdefault("state", {})[STATE] = ids
            scope["raw_path"] = path.encode("latin-1")
            scope["path"] = unquote(path)
        await self._app(scope, receive, send)
