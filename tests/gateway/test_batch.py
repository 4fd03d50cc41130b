"""One transaction by hand: the same as redis-py's own, refused as a whole, in step with replies."""

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import WatchError
from redis.exceptions import ResponseError

from gateway.spool.batch import add_batch
from gateway.spool.recent import Recent


def ship(redis: fakeredis.FakeRedis, records: list[tuple[int, bytes]]) -> None:
    with redis.pipeline() as pipe:
        pipe.watch("s")
        add_batch(pipe.connection, b"s", records)
        pipe.watching = False


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_every_record_arrives_under_its_sequence(payloads: list[bytes]) -> None:
    redis = fakeredis.FakeRedis()
    ship(redis, list(enumerate(payloads, 5)))
    assert redis.xrange("s") == [
        (b"%d-0" % number, {b"r": payload}) for number, payload in enumerate(payloads, 5)
    ]


def test_a_repeat_is_refused_and_the_connection_stays_in_step() -> None:
    redis = fakeredis.FakeRedis()
    ship(redis, [(1, b"a"), (2, b"b")])
    with pytest.raises(ResponseError):
        ship(redis, [(2, b"again")])
    assert redis.ping()
    ship(redis, [(3, b"c")])
    assert [entry_id for entry_id, _ in redis.xrange("s")] == [b"1-0", b"2-0", b"3-0"]


def test_a_stream_that_changed_meanwhile_takes_nothing() -> None:
    redis = fakeredis.FakeRedis()
    with redis.pipeline() as pipe:
        pipe.watch("s")
        redis.xadd("s", {"r": b"x"}, id="1-0")
        with pytest.raises(WatchError):
            add_batch(pipe.connection, b"s", [(2, b"b")])
    assert redis.xlen("s") == 1


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
    st.integers(0, 80),
    st.integers(1, 10),
    st.integers(40, 400),
)
def test_recent_gives_what_follows_or_says_that_it_cannot(
    sizes: list[int], after: int, limit: int, limit_bytes: int
) -> None:
    recent = Recent(9, limit_bytes=limit_bytes)
    every = [(10 + number, b"x" * size) for number, size in enumerate(sizes)]
    for sequence, payload in every:
        recent.add(sequence, payload)
    found = recent.after(after, limit, 1 << 20)
    expected = [entry for entry in every if entry[0] > after][:limit]
    if found is None:
        kept, size = 0, 0
        for _, payload in reversed(every):
            size += len(payload)
            kept += size <= limit_bytes
        # It may only fall back on the files for what it was never given, or has dropped.
        assert after < 9 or after < every[-1][0] - kept
    else:
        assert [(frame.sequence, frame.payload) for frame in found] == expected
    recent.forget(every[-1][0])
    assert recent.after(every[-1][0], limit, 1) == []
