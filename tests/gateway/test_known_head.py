"""A head that was parsed once: used again for the same bytes, and for nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.attribution import PathIds
from gateway.wire.headers import read_headers
from gateway.wire.hot import HotPath
from gateway.wire.known_head import KnownHead, known_head

PATH = HotPath("chat", PathIds(), b"")
HEADERS = read_headers([(b"authorization", b"Bearer k")])
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"


def request(body: bytes, head: bytes = START, name: bytes = b"Content-Length") -> bytes:
    return b"%b%b: %d\r\nauthorization: Bearer k\r\n\r\n%b" % (head, name, len(body), body)


def known(raw: bytes, body: bytes) -> KnownHead | None:
    return known_head(raw, body, PATH, HEADERS)


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=300))
def test_the_same_head_gives_the_body_whatever_its_length(first: bytes, second: bytes) -> None:
    found = known(request(first), first)
    assert found is not None
    assert found.body_of(request(second)) == second


@given(st.binary(min_size=1, max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_a_request_that_differs_in_one_byte_of_its_head_is_parsed(
    body: bytes, place: int, byte: int
) -> None:
    raw = request(body)
    found = known(raw, body)
    assert found is not None
    head = len(raw) - len(body)
    changed = bytearray(raw)
    changed[place % head] = byte
    if bytes(changed) != raw:
        taken = found.body_of(bytes(changed))
        # Another digit says another length, and then the bytes do not add up.
        assert taken is None


def test_what_is_not_one_whole_request_is_parsed() -> None:
    body = b'{"a":1}'
    found = known(request(body), body)
    assert found is not None
    whole = request(body)
    for odd in (whole[:-1], whole + b"x", whole + whole, whole[:20], b"", b"\r\n" + whole):
        assert found.body_of(odd) is None
    for length in (b"+7", b"07", b"7 ", b"7\t", b"0x7", b"", b"7777777777"):
        raw = START + b"Content-Length: %b\r\nauthorization: Bearer k\r\n\r\n" % length + body
        # "07" is seven to a parser as well.
        assert found.body_of(raw) == (body if length == b"07" else None)


def test_a_head_is_known_only_where_it_is_sure_what_was_parsed() -> None:
    body = b"abc"
    assert known(request(body, name=b"content-length"), body) is not None
    assert known(request(body) + request(body), body) is None  # two in one packet
    assert known(b"\r\n\r\n" + request(body), body) is None
    assert known(START + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", body) is None
    twice = START + b"content-length: 3\r\ncontent-length: 3\r\n\r\n" + body
    assert known(twice, body) is None
    assert known(b"", body) is None


def test_a_head_that_is_cut_in_its_length_is_parsed() -> None:
    found = known(request(b"abc"), b"abc")
    assert found is not None
    whole = request(b"x" * 12)
    for end in range(len(whole) - 12):
        assert found.body_of(whole[:end]) is None
