"""One POST to a server that may be slow, dead or hostile: with a deadline and a size limit.

The time limit is one for all of it: a server that sends a byte a second is cut
off as one that sends none. Redirects are not followed, and no proxy of the
machine comes in between: the address is the operator's.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from workers.verdicts.opinions import NoVerdict

MAX_REPLY_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and headers (names in lower case) of an answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Reply:
    """The answer to `body`, within `seconds`.

    Raises NoVerdict: `timeout`, `unreachable`, or `garbage` when it is no HTTP or too long.
    """
    parts = urlsplit(url)
    deadline = time.monotonic() + seconds
    connection = _connection(parts.scheme, parts.netloc, seconds)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    try:
        connection.connect()
        timer = threading.Timer(max(0.001, deadline - time.monotonic()), cut)
        timer.daemon = True
        timer.start()
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            content = response.read(MAX_REPLY_BYTES + 1)
        finally:
            timer.cancel()
    except TimeoutError as error:
        raise NoVerdict("timeout", f"no answer within {seconds:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if is_late.is_set():
            raise NoVerdict("timeout", f"no whole answer within {seconds:g} s") from error
        if isinstance(error, OSError):
            raise NoVerdict("unreachable", f"{type(error).__name__}: {error}") from error
        raise NoVerdict("garbage", f"no HTTP: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if is_late.is_set():
        raise NoVerdict("timeout", f"no whole answer within {seconds:g} s")
    if len(content) > MAX_REPLY_BYTES:
        raise NoVerdict("garbage", f"the answer is longer than {MAX_REPLY_BYTES} bytes")
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, content, headers)


def _connection(scheme: str, netloc: str, seconds: float) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(netloc, timeout=seconds, context=context)
    return http.client.HTTPConnection(netloc, timeout=seconds)
