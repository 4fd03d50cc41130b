"""One transaction by hand: on a real Redis, refused as a whole, and in step with its replies."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import WatchError
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from gateway.spool.stream import Progress, TrafficStream, _replies
from tests.gateway.conftest import RedisServer, shipping_client
from trajectories.connection import AsyncRedis, Redis, connect_async
from trajectories.settings import RedisSettings

MEGABYTE = 1 << 20


def client(server: RedisServer, timeout_seconds: float = 5) -> AsyncRedis:
    return connect_async(RedisSettings(url=server.url, timeout_seconds=timeout_seconds))


async def ship(stream: TrafficStream, records: list[tuple[int, bytes]]) -> None:
    await stream.progress()
    await stream.add(records)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_every_record_arrives_under_its_sequence(payloads: list[bytes]) -> None:
    redis = fakeredis.FakeRedis()

    async def shipped() -> None:
        await ship(TrafficStream(shipping_client(redis), "s"), list(enumerate(payloads, 5)))

    asyncio.run(shipped())
    assert redis.xrange("s") == [
        (b"%d-0" % number, {b"r": payload}) for number, payload in enumerate(payloads, 5)
    ]


async def test_a_real_redis_takes_large_batches_and_says_how_far_it_is(
    redis_server: RedisServer,
) -> None:
    redis = Redis.from_url(redis_server.url)
    stream = TrafficStream(client(redis_server), "s")
    assert await stream.progress() == Progress(0, 0)
    for first in (1, 401):
        await ship(stream, [(first + n, b"%d" % n + b"x" * 5000) for n in range(400)])
    assert await stream.progress() == Progress(800, 800)
    redis.xtrim("s", maxlen=10, approximate=False)
    assert await stream.progress() == Progress(800, 10)
    # Its replies are read in bulk, from where redis-py keeps its socket.
    assert isinstance(stream._connection._reader, asyncio.StreamReader)
    await stream.close()
    redis.close()


async def test_a_repeat_is_refused_and_the_connection_stays_in_step(
    redis_server: RedisServer,
) -> None:
    stream = TrafficStream(client(redis_server), "s")
    await ship(stream, [(1, b"a"), (2, b"b")])
    with pytest.raises(ResponseError):
        await ship(stream, [(2, b"again")])
    assert await stream.progress() == Progress(2, 2)
    await ship(stream, [(3, b"c")])
    assert await stream.progress() == Progress(3, 3)
    await stream.close()


async def test_a_stream_that_changed_meanwhile_takes_nothing(redis_server: RedisServer) -> None:
    redis = Redis.from_url(redis_server.url)
    stream = TrafficStream(client(redis_server), "s")
    await stream.progress()
    redis.xadd("s", {"r": b"x"}, id="1-0")
    with pytest.raises(WatchError):
        await stream.add([(2, b"b")])
    assert redis.xlen("s") == 1
    # A question that nothing followed watches no longer than to the next.
    await stream.progress()
    redis.xadd("s", {"r": b"x"}, id="2-0")
    await ship(stream, [(3, b"c")])
    assert redis.xlen("s") == 3
    await stream.close()
    redis.close()


async def test_at_the_memory_limit_a_batch_is_refused_as_a_whole(
    redis_server: RedisServer,
) -> None:
    redis = Redis.from_url(redis_server.url)
    stream = TrafficStream(client(redis_server), "s")
    await ship(stream, [(1, b"a")])
    redis.config_set("maxmemory", MEGABYTE)
    with pytest.raises(ResponseError):
        await ship(stream, [(number, b"x" * MEGABYTE) for number in range(2, 9)])
    redis.config_set("maxmemory", 0)
    assert await stream.progress() == Progress(1, 1)
    await ship(stream, [(2, b"b")])
    await stream.close()
    redis.close()


async def test_a_redis_that_goes_or_hangs_is_an_error_and_is_found_again(
    redis_server: RedisServer,
) -> None:
    stream = TrafficStream(client(redis_server, timeout_seconds=0.3), "s")
    await ship(stream, [(1, b"a")])
    redis_server.kill()
    with pytest.raises(ConnectionError):
        await stream.progress()
    redis_server.start()
    assert await stream.progress() == Progress(1, 1)
    redis = Redis.from_url(redis_server.url)
    redis.client_pause(1000, all=True)
    with pytest.raises(TimeoutError):
        await stream.progress()
    await asyncio.sleep(1.1)
    await ship(stream, [(2, b"b")])
    assert await stream.progress() == Progress(2, 2)
    await stream.close()
    redis.close()


async def test_a_redis_that_stalls_on_a_large_batch_costs_no_connection(
    redis_server: RedisServer,
) -> None:
    redis: Any = client(redis_server, timeout_seconds=0.2)
    stream = TrafficStream(redis, "s")
    assert redis_server.process is not None
    for _ in range(3):
        await stream.progress()
        redis_server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await stream.add([(1, b"x" * 16 * MEGABYTE)])
        redis_server.process.send_signal(signal.SIGCONT)
        assert not redis.connection_pool._in_use_connections
    await stream.close()


async def test_who_waits_for_a_stalled_redis_can_be_cancelled(redis_server: RedisServer) -> None:
    stream = TrafficStream(client(redis_server), "s")
    await stream.progress()
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        waiting = asyncio.create_task(stream.add([(1, b"x" * 16 * MEGABYTE)]))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    assert await stream.progress() == Progress(0, 0)
    await stream.close()


async def test_what_redis_says_unasked_is_no_answer() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"+OK\r\n>2\r\n+MOVING\r\n+x\r\n-ERR no\r\n")
    ok, refused = await _replies(SimpleNamespace(_reader=reader), 2)
    assert ok == b"OK"
    assert isinstance(refused, ResponseError)
