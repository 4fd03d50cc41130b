"""A head that was parsed before need not be parsed again.

A client sends the same headers with each request on a connection, and a server
with each answer for as long as a second lasts; only the length of the body
differs. What the parser made of the head the first time holds for every head
that is the same byte for byte but for the digits of `Content-Length`, so those
are all that has to be looked at. Pure.
"""

import re
from dataclasses import dataclass

from gateway.wire.headers import AnswerHead, RequestHeaders
from gateway.wire.hot import HotPath

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)(?=\r\n)", re.IGNORECASE)
_MOST_DIGITS = 9
_ANOTHER = (0, 0)


@dataclass(frozen=True, slots=True)
class CutHead:
    """The bytes of a head before and behind its length."""

    before: bytes
    after: bytes

    def body_at(self, message: bytes) -> tuple[int, int]:
        """Where the body of a message with this head begins, and how long it is to be.

        (0, 0): it has another head, or no whole one.
        """
        if not message.startswith(self.before):
            return _ANOTHER
        start = len(self.before)
        stop = message.find(b"\r", start, start + _MOST_DIGITS + 1)
        if stop < 0:  # mypyc fails where a slice would end before it begins
            return _ANOTHER
        digits = message[start:stop]
        if not digits.isdigit() or not message.startswith(self.after, stop):
            return _ANOTHER
        return stop + len(self.after), int(digits)


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The head of a request, and what it means."""

    cut: CutHead
    path: HotPath
    headers: RequestHeaders

    def body_of(self, request: bytes) -> bytes | None:
        """The body of a request that is whole and has this head; None: parse it."""
        start, length = self.cut.body_at(request)
        return request[start:] if start and len(request) - start == length else None


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """The head of an answer after which the connection is kept, and what it means."""

    cut: CutHead
    head: AnswerHead


def known_head(
    request: bytes, body: bytes, path: HotPath, headers: RequestHeaders
) -> KnownHead | None:
    """The head of a request that was parsed, if `request` is all of it and nothing more."""
    if not body or not request.endswith(body):
        return None
    cut = _cut(request[: len(request) - len(body)], len(body))
    return None if cut is None else KnownHead(cut, path, headers)


def known_answer(received: bytes, head: AnswerHead) -> KnownAnswer | None:
    """The head of an answer that was parsed, if `received`, its first bytes, holds all of it.

    They may be those of an interim answer, which has no length, but where a server is wrong.
    """
    end = received.find(b"\r\n\r\n") + 4
    is_plain = head.status == 200 and received.startswith(b" 200", len(b"HTTP/1.1"))
    cut = _cut(received[:end]) if end > 4 and is_plain else None
    return None if cut is None else KnownAnswer(cut, head)


def _cut(head: bytes, length: int | None = None) -> CutHead | None:
    """A head that says its length once, and that it is `length` (None: any)."""
    lengths = _LENGTH.findall(head)
    is_whole = head.endswith(b"\r\n\r\n") and head.find(b"\r\n\r\n") == len(head) - 4
    if not is_whole or len(lengths) != 1 or length not in (None, int(lengths[0])):
        return None
    if b"transfer-encoding" in head.lower():  # which of the two counts is not for us to say
        return None
    found = _LENGTH.search(head)
    assert found is not None
    return CutHead(head[: found.start(1)], head[found.end(1) :])
