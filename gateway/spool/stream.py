"""One stream of Redis as the shipper sees it: how far it is, and one batch at a time.

Commands are written and replies read in bulk, by hand: redis-py's own pipeline
costs ten times as much for each record, and the event loop that ships is the
one that serves. redis-py still makes the connection (TLS, passwords, sockets).
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

import hiredis
from redis import WatchError
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from trajectories.connection import AsyncRedis

_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"
_UNWATCH = b"*1\r\n$7\r\nUNWATCH\r\n"
_READ_BYTES = 64 * 1024


# What XINFO says of a stream with nothing in it yet.
_NEW = {b"last-generated-id": b"0-0", b"length": 0}


class Progress(NamedTuple):
    """How far a stream is: the sequence of its newest entry (0: none), and how many it holds."""

    last: int
    length: int


def progress_commands(stream: bytes) -> bytes:
    """WATCH and XINFO STREAM; what an earlier question watched is let go first."""
    name = b"$%d\r\n%b\r\n" % (len(stream), stream)
    info = b"*3\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n"
    return b"%b*2\r\n$5\r\nWATCH\r\n%b%b%b" % (_UNWATCH, name, info, name)


def batch_commands(stream: bytes, records: Iterable[tuple[int, bytes]]) -> bytes:
    """MULTI, an XADD for each record (sequence, payload), EXEC."""
    start = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$" % (len(stream), stream)
    commands = [_MULTI]
    for sequence, payload in records:
        entry_id = b"%d-0" % sequence
        commands += (
            b"%b%d\r\n%b\r\n$1\r\nr\r\n$%d\r\n" % (start, len(entry_id), entry_id, len(payload)),
            payload,
            b"\r\n",
        )
    commands.append(_EXEC)
    return b"".join(commands)


class TrafficStream:
    """The stream `name` over one connection, which it keeps. Raises RedisError when that fails."""

    def __init__(self, redis: AsyncRedis, name: str) -> None:
        self._redis = redis
        self._name = name.encode()
        self._connection: Any = None

    async def progress(self) -> Progress:
        """How far it is. From here on it is watched: an `add` fails if it changes meanwhile."""
        _, watched, found = await self._ask(progress_commands(self._name), 3)
        if isinstance(found, ResponseError) and "no such key" in str(found):
            found = _NEW
        for reply in (watched, found):
            if isinstance(reply, ResponseError):
                raise reply
        if isinstance(found, list):  # RESP2 has no dictionaries
            found = dict(zip(found[::2], found[1::2], strict=True))
        last = bytes(found[b"last-generated-id"])
        return Progress(int(last.partition(b"-")[0]), int(found[b"length"]))

    async def add(self, records: list[tuple[int, bytes]]) -> None:
        """Add all records, or none.

        Raises WatchError when the stream has changed since `progress`, and
        ResponseError when Redis refuses.
        """
        # All replies are read first: the next question's must be the next.
        replies = await self._ask(batch_commands(self._name, records), len(records) + 2)
        added = replies[-1]
        if added is None:
            raise WatchError("the stream has changed")
        for reply in (*replies, *(added if isinstance(added, list) else ())):
            if isinstance(reply, ResponseError):
                raise reply
        if not isinstance(added, list):
            await self.close()
            raise ConnectionError("Redis' replies are out of step")

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if (transport := getattr(connection._writer, "transport", None)) is not None:
            transport.abort()  # closing would wait for what could not be sent
        try:
            await connection.disconnect(nowait=True)
        finally:
            await self._redis.connection_pool.release(connection)

    async def _ask(self, commands: bytes, count: int) -> list[Any]:
        """Send commands and read as many replies; a refusal is one of them."""
        if self._connection is None:
            pool: Any = self._redis.connection_pool
            self._connection = await pool.get_connection()
        connection = self._connection
        try:
            async with asyncio.timeout(connection.socket_timeout):
                if not connection.is_connected:
                    await connection.connect()
                # redis-py shows nobody its socket; tests/gateway/test_stream.py holds where it is.
                # (`writelines`, as fakeredis has no `write`.)
                connection._writer.writelines([commands])
                await connection._writer.drain()
                return await _replies(connection, count)
        except OSError as error:
            kind = TimeoutError if isinstance(error, asyncio.TimeoutError) else ConnectionError
            await self.close()  # nobody knows what its next reply would belong to
            raise kind(f"no answer from Redis: {error}") from error
        except BaseException:
            await self.close()
            raise


async def _replies(connection: Any, count: int) -> list[Any]:
    stream = connection._reader
    if not isinstance(stream, asyncio.StreamReader):  # fakeredis
        return [await _reply(connection) for _ in range(count)]
    reader = hiredis.Reader(replyError=ResponseError)
    replies: list[Any] = []
    while len(replies) < count:
        reply = reader.gets()
        if reply is not False:
            if not isinstance(reply, hiredis.PushNotification):  # it answers nothing
                replies.append(reply)
            continue
        received = await stream.read(_READ_BYTES)
        if not received:
            raise ConnectionError("Redis hung up")
        reader.feed(received)
    return replies


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
