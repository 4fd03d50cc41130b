"""Short forms: every text comes back as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.errors import RecordError
from trajectories.ids import derived_id, new_id
from trajectories.store.packing import pack, unpack

words = st.one_of(
    st.text(max_size=40).filter(lambda text: " " not in text),
    st.integers(0, 10**12).map(str),
    st.sampled_from([new_id("traj"), new_id("tr"), derived_id("traj", "a"), "f" * 32, "007", ""]),
)


@given(st.lists(words, min_size=1, max_size=6).map(" ".join))
def test_words_come_back_as_they_were(text: str) -> None:
    assert unpack(pack(text)) == text


def test_ids_take_half_their_length() -> None:
    assert len(pack(f"{new_id('traj')} {new_id('tr')}")) == 30


@pytest.mark.parametrize("packed", [b"\x09", b"\x01abc", b"\x05\x09\x00abc", b"\x04"])
def test_what_was_not_packed_is_a_record_error(packed: bytes) -> None:
    with pytest.raises(RecordError):
        unpack(packed)
