"""HTTP to the inference engine: one pooled client, three time-outs, clear errors.

Plain bytes both ways. Credentials, our own headers and hop-by-hop headers stay
here; redirects are not followed; nothing is retried.
"""

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Self

import aiohttp
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
    """The engine broke off, or fell silent, in the middle of an answer."""


def request_headers(headers: Iterable[tuple[bytes, bytes]], api_key: str | None) -> dict[str, str]:
    """What goes to the engine of what the client sent."""
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
    if api_key is not None:
        sent["authorization"] = f"Bearer {api_key}"
    return sent


def response_headers(response: aiohttp.ClientResponse) -> Headers:
    """What goes back to the client of what the engine sent."""
    return [
        (name.lower(), value)
        for name, value in response.raw_headers
        if (text := name.decode("latin-1").lower()) not in _NOT_RETURNED
        and not text.startswith(_OURS)
    ]


class Upstream:
    """The engine behind the gateway. Open it inside the event loop."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._base = settings.url.rstrip("/")
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

    @property
    def api_key(self) -> str | None:
        return self._settings.api_key

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        first_byte_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the status line. Raises ApiError 502, 503 or 504."""
        assert self._session is not None, "the upstream is not open"
        limit = first_byte_seconds or self._settings.first_byte_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._session.request(
                    method,
                    URL(self._base + path, encoded=True),
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.SocketTimeoutError) as error:
            raise ApiError(
                504,
                "upstream_timeout",
                "no connection to the inference engine in time",
                retry_after=1,
                headers={"x-should-retry": "true"},
            ) from error
        except aiohttp.ClientConnectorError as error:
            message = "the inference engine cannot be reached"
            raise ApiError(503, "upstream_down", message, retry_after=1) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                message = f"the inference engine did not answer within {limit:g} seconds"
                raise ApiError(
                    504,
                    "upstream_timeout",
                    message,
                    retry_after=1,
                    headers={"x-should-retry": "true"},
                ) from error
            message = "the inference engine broke off before it answered"
            raise ApiError(502, "upstream_broke_off", message, retry_after=1) from error

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of an answer, b"" at its end. Raises UpstreamCut."""
        try:
            async with asyncio.timeout(self._settings.idle_seconds):
                return await response.content.readany()
        except TimeoutError as error:
            silence = self._settings.idle_seconds
            raise UpstreamCut(
                f"the inference engine sent nothing for {silence:g} seconds"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamCut(
                "the inference engine broke off in the middle of its answer"
            ) from error

    async def read_all(self, response: aiohttp.ClientResponse) -> bytes:
        """The rest of an answer. Raises UpstreamCut."""
        pieces: list[bytes] = []
        while piece := await self.read(response):
            pieces.append(piece)
        return b"".join(pieces)

    async def is_reachable(self) -> bool:
        """Whether the engine says it is well, within two seconds."""
        try:
            response = await self.request(
                "GET", "/health", headers=request_headers([], self.api_key), first_byte_seconds=2
            )
        except ApiError:
            return False
        response.release()
        return response.status == 200
