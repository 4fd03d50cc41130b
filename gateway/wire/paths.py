"""ASGI layer: what the URL says besides the route.

Peels `/a/{agent}` and `/t/{session}` off the path, turns Azure's paths into
OpenAI's, adds a missing `/v1` and collapses a doubled one, so that every route
below exists once. It works on the raw path: a percent-encoded slash must not
become a segment.
"""

from collections.abc import Sequence
from urllib.parse import unquote

from gateway.attribution import PathIds
from gateway.errors import ApiError, Application, Receive, Scope, Send
from gateway.refusals import refuse
from trajectories.ids import ID_PATTERN

STATE = "path_ids"
_UNVERSIONED = frozenset(
    {
        "audio",
        "batches",
        "chat",
        "completions",
        "conversations",
        "embeddings",
        "feedback",
        "files",
        "images",
        "messages",
        "models",
        "moderations",
        "responses",
        "trajectories",
        "uploads",
        "vector_stores",
    }
)
_BASES: tuple[list[str], ...] = ([], ["v1"], ["openai"], ["openai", "v1"])


def path_ids(scope: Scope) -> PathIds:
    """What this layer found in the URL."""
    found = scope.get("state", {}).get(STATE)
    return found if isinstance(found, PathIds) else PathIds()


def split_path(raw_path: str) -> tuple[PathIds, str]:
    """The ids in a raw path, and the canonical (still quoted) path without them.

    Raises ApiError 400 for an id that is none.
    """
    agent, session, rest = _peel(raw_path)
    deployment, rest = _from_azure(rest)
    ids = PathIds(
        session=None if session is None else _path_id(session),
        agent=None if agent is None else _path_id(agent),
        deployment=deployment,
    )
    return ids, "/" + "/".join(_versioned(rest))


def is_base(raw_path: str) -> bool:
    """Whether a path is what a client may call its base URL, with no route behind it."""
    _, _, rest = _peel(raw_path)
    named = [segment for segment in rest if segment]
    while named[-2:] == ["v1", "v1"]:
        named = named[:-1]
    return named in _BASES


def without_api_version(query: bytes) -> bytes:
    """The query without Azure's `api-version`: any will do, and no engine knows one."""
    if b"api-version=" not in query:
        return query
    return b"&".join(part for part in query.split(b"&") if not part.startswith(b"api-version="))


def _peel(raw_path: str) -> tuple[str | None, str | None, list[str]]:
    """Agent and session as they stand in the path, and the other segments."""
    segments = raw_path.split("/")[1:]
    agent = session = None
    if len(segments) >= 2 and segments[0] == "a":
        agent, segments = segments[1], segments[2:]
    if len(segments) >= 2 and segments[0] == "t":
        session, segments = segments[1], segments[2:]
    return agent, session, segments


def _path_id(segment: str) -> str:
    value = unquote(segment)
    if not ID_PATTERN.fullmatch(value):
        raise ApiError(
            400, "bad_id", "an id in the URL is 1 to 128 characters of A-Z a-z 0-9 . _ : ~ -"
        )
    return value


def _from_azure(segments: list[str]) -> tuple[str | None, list[str]]:
    """`/openai/deployments/{d}/...` and `/openai/...` as OpenAI writes them, and the deployment."""
    if segments[:1] != ["openai"]:
        return None, segments
    if segments[1:2] == ["deployments"] and len(segments) > 3 and segments[2]:
        return unquote(segments[2]), ["v1", *segments[3:]]
    rest = segments[1:]
    return None, rest if rest[:1] == ["v1"] else ["v1", *rest]


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
            raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
            raw = raw_path.partition(b"?")[0].decode("latin-1")
            try:
                ids, path = split_path(raw)
            except ApiError as error:
                await refuse(scope, send, error)
                return
            if scope["method"] == "HEAD" and is_base(raw):
                path = "/"  # one route answers for all of them
            scope.setdefault("state", {})[STATE] = ids
            scope["raw_path"] = path.encode("latin-1")
            scope["path"] = unquote(path)
            scope["query_string"] = without_api_version(scope.get("query_string", b""))
        await self._app(scope, receive, send)
