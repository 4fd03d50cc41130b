"""Calls of tools in one spelling."""

import json

from hypothesis import given
from hypothesis import strategies as st

from trajectories.tool_calls import plain_call

ARGUMENTS = st.dictionaries(st.text(max_size=5), st.integers(-5, 5) | st.text(max_size=5))


@given(ARGUMENTS, st.randoms())
def test_order_spacing_and_ids_make_no_difference(arguments: dict[str, object], chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(arguments.items())
    chance.shuffle(shuffled)
    one = {"id": "a", "function": {"name": "f", "arguments": json.dumps(arguments)}}
    other = {
        "id": "b",
        "function": {"name": "f", "arguments": json.dumps(dict(shuffled), indent=2)},
    }
    assert plain_call(one) == plain_call(other)


def test_another_name_or_argument_does() -> None:
    calls = [
        {"function": {"name": name, "arguments": written}}
        for name, written in [("f", '{"a": 1}'), ("g", '{"a": 1}'), ("f", '{"a": "1"}'), ("f", "{")]
    ]
    assert len({tuple(plain_call(call)) for call in calls}) == 4
