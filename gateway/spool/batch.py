"""One batch of records into a stream, as one transaction: written and read by hand.

redis-py's own pipeline costs four times as much for each command, all of it
under the interpreter's lock, where the event loop waits for it.
"""

from collections.abc import Iterable
from typing import Any

from redis import WatchError
from redis.exceptions import ResponseError

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


def batch_commands(stream: bytes, records: Iterable[tuple[int, bytes]]) -> bytes:
    """MULTI, an XADD for each record (sequence, payload), EXEC."""
    start = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$" % (len(stream), stream)
    commands = [_MULTI]
    for sequence, payload in records:
        entry_id = b"%d-0" % sequence
        commands.append(
            b"%b%d\r\n%b\r\n$1\r\nr\r\n$%d\r\n%b\r\n"
            % (start, len(entry_id), entry_id, len(payload), payload)
        )
    commands.append(_EXEC)
    return b"".join(commands)


def add_batch(connection: Any, stream: bytes, records: list[tuple[int, bytes]]) -> None:
    """Add all records, or none, over a connection that watches the stream.

    Raises WatchError when the stream has changed, ResponseError when Redis
    refuses, and other RedisErrors when it cannot be asked.
    """
    connection.send_packed_command([batch_commands(stream, records)])
    refused: ResponseError | None = None
    replies: list[Any] | None = None
    # Every reply is read, also behind a refusal: the next command's must be the next.
    for _ in range(len(records) + 2):
        try:
            replies = connection.read_response()
        except ResponseError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    if replies is None:
        raise WatchError("the stream has changed")
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
