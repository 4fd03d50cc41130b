"""Hyperscan and RE2 find the same; one of the two is always there."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.privacy.prefilter import Prefilter
from trajectories.privacy.secrets import _ENCODED, Redactor, _in_any_json, _options

PATTERNS = [_in_any_json('pa"ss/w\\ord\u00e9'), *_ENCODED]
VECTOR = Prefilter(PATTERNS, _options())
PLAIN = Prefilter(PATTERNS, _options(), is_vector=False)
PIECES = st.sampled_from(
    [
        *(b"sk-", b"rk_live_", b"AKIA", b"ASIA", b"aws_secret_access_key", b"ghp_", b"github_pat_"),
        *(b"glpat-", b"xoxb-", b"AIza", b"ya29.", b"hf_", b"eyJ", b".eyJ", b"Bearer ", b"bearer  "),
        *(b"PRIVATE KEY-----", b"://", b":\\/\\/", b"@", b":", b"\\u006b", b"\\n", b"\\\\n", b"\\"),
        *(b"0123456789abcdef", b"ABCDEFGHIJKLMNOP", b"word ", b"task-", b'"', b"\xc3\xa9", b"\0"),
        *(b'pa\\"ss\\/w\\\\ord\xc3\xa9', b'pa\\"ss/w\\\\ord\\u00e9', b"/", b"\n", b"-", b"_", b" "),
    ]
)


@given(st.lists(PIECES | st.binary(max_size=4), max_size=12).map(b"".join))
def test_both_find_the_same(content: bytes) -> None:
    assert VECTOR.finds(content) == PLAIN.finds(content)


def test_plain_is_plain() -> None:
    assert not PLAIN.is_vector


def test_a_value_too_long_for_one_is_found_by_the_other() -> None:
    value = "x" * 20_000
    redactor = Redactor([("key", value)])
    assert redactor.finds(value.encode())
    assert not redactor.finds(value[1:].encode())


@pytest.mark.parametrize("secret", [b"", b"sk-0123456789abcdefgh"])
def test_threads_share_it(secret: bytes) -> None:
    content = b"word " * 20_000 + secret
    found: list[bool] = []

    def look() -> None:
        found.extend(VECTOR.finds(content) for _ in range(50))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [bool(secret)] * 200
