"""A head that was parsed before need not be parsed again.

A client sends the same headers with each request on a connection; only the
length of the body differs. What the parser made of the head the first time
holds for every head that is the same byte for byte but for the digits of
`Content-Length`, so those are all that has to be looked at. Pure.
"""

import re
from dataclasses import dataclass

from gateway.wire.headers import RequestHeaders
from gateway.wire.hot import HotPath

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)(?=\r\n)", re.IGNORECASE)
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head, cut where the length stands, and what it means."""

    before: bytes
    after: bytes
    path: HotPath
    headers: RequestHeaders

    def body_of(self, request: bytes) -> bytes | None:
        """The body of a request that is whole and has this head; None: parse it."""
        if not request.startswith(self.before):
            return None
        start = len(self.before)
        stop = request.find(b"\r", start, start + _MOST_DIGITS + 1)
        digits = request[start:stop]
        if stop < 0 or not digits.isdigit() or not request.startswith(self.after, stop):
            return None
        stop += len(self.after)
        return request[stop:] if len(request) - stop == int(digits) else None


def known_head(
    request: bytes, body: bytes, path: HotPath, headers: RequestHeaders
) -> KnownHead | None:
    """The head of a request that was parsed, if `request` is all of it and nothing more."""
    head = request[: len(request) - len(body)]
    lengths = _LENGTH.findall(head)
    is_whole = body and head.endswith(b"\r\n\r\n") and head.find(b"\r\n\r\n") == len(head) - 4
    if not is_whole or lengths != [b"%d" % len(body)] or not request.endswith(body):
        return None
    found = _LENGTH.search(head)
    assert found is not None
    return KnownHead(head[: found.start(1)], head[found.end(1) :], path, headers)
