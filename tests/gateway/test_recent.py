"""The newest records in memory: what follows a sequence, or None where the files have to say."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.spool.recent import Recent


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
