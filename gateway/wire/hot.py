"""Which requests are calls of a model: both shells look them up here, before any framework.

What a URL means is remembered, as clients ask for few; the memory is bounded,
since a session may stand in the path.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from gateway.attribution import PathIds
from gateway.errors import ApiError
from gateway.wire.paths import split_path
from trajectories.settings import Dialect

_DIALECTS: dict[str, Dialect] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
}
_MAX_REMEMBERED = 4096
_LONGEST_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class HotPath:
    """A URL that calls a model."""

    dialect: Dialect
    path_ids: PathIds
    query: bytes


class HotPaths:
    """Looks URLs up."""

    def __init__(self) -> None:
        self._found: dict[bytes, HotPath | None] = {}

    def find(self, url: bytes) -> HotPath | None:
        """What a POST to `url` (path and query, as sent) calls; None: no model."""
        try:
            return self._found[url]
        except KeyError:
            found = _read(url)
            if len(url) <= _LONGEST_REMEMBERED:
                if len(self._found) >= _MAX_REMEMBERED:
                    self._found.clear()
                self._found[url] = found
            return found


def _read(url: bytes) -> HotPath | None:
    path, _, query = url.partition(b"?")
    try:
        ids, canonical = split_path(path.decode("latin-1"))
    except ApiError:
        return None  # answered where all odd paths are
    dialect = _DIALECTS.get(unquote(canonical))
    return HotPath(dialect, ids, query) if dialect else None
