"""HTTP to upstreams beside the hot path: one pooled client, three time-outs, clear errors.

Plain bytes both ways. Credentials, our own headers and hop-by-hop headers stay
here; redirects are not followed; nothing is retried.
"""

import asyncio
from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson
from yarl import URL

from gateway.errors import ApiError, Headers
from trajectories.settings import UpstreamSettings

# uvicorn (and so vLLM) closes idle connections after 5 s: let go of them well before.
_KEEPALIVE_SECONDS = 2.0
_CREDENTIALS = {"authorization", "api-key", "x-api-key", "cookie"}
_HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_NOT_FORWARDED = (
    _CREDENTIALS
    | _HOP_BY_HOP
    | {"host", "content-length", "accept-encoding", "expect"}
    | {"x-session-id", "x-task-id", "x-agent-id", "x-tenant", "x-trajectory-id"}
)
_NOT_RETURNED = _HOP_BY_HOP | {"content-length", "server", "date", "set-cookie"}
_OURS = "x-ratchet-"


class UpstreamCut(Exception):
    """The upstream broke off, or fell silent, in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, and as whom."""

    url: str
    api_key: str | None = None
    is_anthropic: bool = False  # it takes the key as `x-api-key`


def request_headers(headers: Iterable[tuple[bytes, bytes]], place: Place) -> dict[str, str]:
    """What goes upstream of what the client sent."""
    pairs = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]
    listed = {
        token.strip().lower()
        for name, value in pairs
        if name == "connection"
        for token in value.split(",")
    }
    sent: dict[str, str] = {}
    for name, value in pairs:
        if name in _NOT_FORWARDED or name in listed or name.startswith(_OURS):
            continue
        sent[name] = f"{sent[name]}, {value}" if name in sent else value
    # A compressed answer could not be cleaned, and not every client can read one.
    sent["accept-encoding"] = "identity"
    if place.api_key and place.is_anthropic:
        sent["x-api-key"] = place.api_key
    elif place.api_key:
        sent["authorization"] = f"Bearer {place.api_key}"
    return sent


def response_headers(response: aiohttp.ClientResponse) -> Headers:
    """What goes back to the client of what the upstream sent."""
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if (text := name.decode("latin-1").lower()) not in _NOT_RETURNED
        and not text.startswith(_OURS)
    ]


class Upstream:
    """A client for any upstream, as patient as `[upstream]` says. Open it inside the event loop."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_seconds),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        place: Place,
        path: str,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | AsyncIterable[bytes] | None = None,
        first_byte_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the status line; `headers` are the client's.

        Raises ApiError 502, 503 or 504.
        """
        assert self._session is not None, "the upstream is not open"
        limit = first_byte_seconds or self._settings.first_byte_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._session.request(
                    method,
                    URL(place.url.rstrip("/") + path, encoded=True),
                    headers=request_headers(headers, place),
                    data=body,
                    allow_redirects=False,
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.SocketTimeoutError) as error:
            raise ApiError(
                504,
                "upstream_timeout",
                "no connection to the upstream in time",
                retry_after=1,
                headers={"x-should-retry": "true"},
            ) from error
        except aiohttp.ClientConnectorError as error:
            message = "the upstream cannot be reached"
            raise ApiError(503, "upstream_down", message, retry_after=1) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                message = f"the upstream did not answer within {limit:g} seconds"
                raise ApiError(
                    504,
                    "upstream_timeout",
                    message,
                    retry_after=1,
                    headers={"x-should-retry": "true"},
                ) from error
            message = "the upstream broke off before it answered"
            raise ApiError(502, "upstream_broke_off", message, retry_after=1) from error

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of an answer, b"" at its end. Raises UpstreamCut."""
        try:
            async with asyncio.timeout(self._settings.idle_seconds):
                return await response.content.readany()
        except TimeoutError as error:
            silence = self._settings.idle_seconds
            raise UpstreamCut(f"the upstream sent nothing for {silence:g} seconds") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamCut("the upstream broke off in the middle of its answer") from error

    async def read_all(self, response: aiohttp.ClientResponse) -> bytes:
        """The rest of an answer. Raises UpstreamCut."""
        pieces: list[bytes] = []
        while piece := await self.read(response):
            pieces.append(piece)
        return b"".join(pieces)

    async def ask(
        self, method: str, place: Place, path: str, content: Any = None, *, seconds: float = 5
    ) -> tuple[int, dict[str, Any]]:
        """A question of our own: JSON both ways; the status, and the object that came.

        Raises ApiError 502, 503 or 504, also for an answer that is no JSON.
        """
        headers = [] if content is None else [(b"content-type", b"application/json")]
        body = None if content is None else orjson.dumps(content)
        response = await self.request(
            method, place, path, headers=headers, body=body, first_byte_seconds=seconds
        )
        try:
            found = orjson.loads(await self.read_all(response))
        except (UpstreamCut, orjson.JSONDecodeError) as error:
            message = "the upstream's answer cannot be read"
            raise ApiError(502, "upstream_garbage", message, retry_after=1) from error
        finally:
            response.release()
        return response.status, found if isinstance(found, dict) else {}

    async def weights_name(self, url: str) -> str | None:
        """What an engine at `url` says its own weights are called; None where it does not."""
        try:
            status, said = await self.ask("GET", Place(url), "/weight_info", seconds=10)
        except ApiError:
            return None
        name = said.get("weight_version") if status == 200 else None
        return name if isinstance(name, str) else None

    async def is_well(self, url: str) -> bool:
        """Whether an engine at `url` says so, within two seconds."""
        try:
            response = await self.request("GET", Place(url), "/health", first_byte_seconds=2)
        except ApiError:
            return False
        response.release()
        return response.status == 200
