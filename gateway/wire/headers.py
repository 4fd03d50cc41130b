"""A request's headers, read in one pass: what we need, and what goes on to the upstream.

Pure. Credentials, our own headers and hop-by-hop headers stay here; all others
go on as they came. An answer's headers come back the same way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

RawHeaders = list[tuple[bytes, bytes]]

_CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
_HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
)
_NAMING_NOTHING = (b"keep-alive", b"close")  # what `Connection` nearly always says
_OURS = b"x-ratchet-"
_KEPT_HERE = (
    *_CREDENTIALS,
    *_HOP_BY_HOP,
    *(b"host", b"content-length", b"content-type", b"accept-encoding", b"expect", b"cookie"),
    *(b"x-session-id", b"x-task-id", b"x-agent-id", b"x-tenant", b"x-trajectory-id"),
)
_READ_AND_PASSED_ON = (
    b"x-claude-code-session-id",
    b"thread-id",
    b"session-id",
    b"helicone-session-id",
    b"x-litellm-trace-id",
    b"langfuse_session_id",
    b"x-codex-turn-metadata",
    b"x-stainless-retry-count",
    b"anthropic-version",
    b"baggage",
    b"traceparent",
)
# What is to be done with a header: True: read and passed on; False: only read.
_KNOWN = dict.fromkeys(_READ_AND_PASSED_ON, True) | dict.fromkeys(_KEPT_HERE, False)
_NOT_RETURNED = frozenset(
    (*_HOP_BY_HOP, b"content-length", b"server", b"date", b"set-cookie", b"x-request-id")
)


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """`known`: the headers that mean something here, by name; `passed_on`: header lines.

    `credentials` is every key the client offered; it may offer several.
    """

    known: dict[bytes, bytes]
    passed_on: bytes
    credentials: tuple[bytes, ...]

    def text(self, name: bytes) -> str | None:
        """A known header's value."""
        value = self.known.get(name)
        return None if value is None else value.decode("latin-1")


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    """One pass over the headers of a request (names in lower case)."""
    known: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    for entry in headers:
        name, value = entry
        is_passed_on = _KNOWN.get(name)
        if is_passed_on is None:
            if name.startswith(_OURS):
                known[name] = value
            else:
                lines += (name, b": ", value, b"\r\n")
        else:
            known.setdefault(name, value)
            if is_passed_on:
                lines += (name, b": ", value, b"\r\n")
    listed = known.get(b"connection")
    if listed is not None and listed.lower() not in _NAMING_NOTHING:
        return _without_listed(headers, known, listed)
    return RequestHeaders(known, b"".join(lines), _credentials(known))


def _without_listed(
    headers: Iterable[tuple[bytes, bytes]], known: dict[bytes, bytes], listed: bytes
) -> RequestHeaders:
    """`Connection` may name further headers that are for this hop only."""
    names = {token.strip().lower() for token in listed.split(b",")}
    passed_on = [
        b"%b: %b\r\n" % (name, value)
        for name, value in headers
        if _KNOWN.get(name, True) and name not in names and not name.startswith(_OURS)
    ]
    return RequestHeaders(known, b"".join(passed_on), _credentials(known))


def _credentials(known: dict[bytes, bytes]) -> tuple[bytes, ...]:
    bearer = known.get(b"authorization", b"")
    found = [bearer[7:].strip()] if bearer[:7].lower() == b"bearer " else []
    found += [known[name].strip() for name in (b"api-key", b"x-api-key") if name in known]
    return tuple(key for key in found if key)


class AnswerHead:
    """The head of an upstream's answer: its status, and the header lines the client gets of it.

    `is_stream` says that events follow.
    """

    __slots__ = ("headers", "is_stream", "returned", "status")

    def __init__(self, status: int, headers: RawHeaders) -> None:
        """Names are in lower case."""
        self.status = status
        self.headers = headers
        self.returned = returned_headers(headers)
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self.is_stream = status == 200 and kind.startswith(b"text/event-stream")


def returned_headers(headers: RawHeaders) -> bytes:
    """The header lines of an answer that go back to the client."""
    return b"".join(
        [
            b"%b: %b\r\n" % entry
            for entry in headers
            if entry[0] not in _NOT_RETURNED and not entry[0].startswith(_OURS)
        ]
    )
