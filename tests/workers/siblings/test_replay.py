"""A sibling goes on by what was recorded after the very same calls, and ends after any other."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.records import call
from tests.workers.siblings.records import ASKED, SEOUL, recorded, said, with_tools
from workers.siblings.replay import continued

ASKS, TOLD = with_tools()


def test_the_same_call_is_told_what_was_recorded() -> None:
    own = call("get_weather", '{"days":2,"city":"Seoul"}', "call_9")
    found = continued(ASKED, said("Let me look.", own), ASKS, [TOLD])
    assert found is not None
    messages, following = found
    assert following is TOLD
    assert messages == [
        *ASKED,
        {"role": "assistant", "content": "Let me look.", "tool_calls": [own]},
        {"role": "tool", "tool_call_id": "call_9", "content": "rain"},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        said("It will rain."),
        said(None, call("get_weather", '{"city": "Busan", "days": 2}')),
        said(None, call("get_tides", SEOUL)),
        said(None, call("get_weather", SEOUL), call("get_weather", SEOUL)),
        said(None, call("get_weather", '{"city": "Seoul", "days": 2')),
        {"role": "assistant", "content": None, "tool_calls": ["get_weather"]},
        {"role": "assistant", "content": None, "tool_calls": "get_weather"},
    ],
)
def test_anything_else_ends_it(answer: dict[str, Any]) -> None:
    assert continued(ASKED, answer, ASKS, [TOLD]) is None


def test_it_ends_where_more_than_the_results_was_said() -> None:
    messages = [*TOLD.request["messages"], {"role": "user", "content": "quick!"}]
    more = TOLD.model_copy(update={"request": {**TOLD.request, "messages": messages}})
    answer = said(None, call("get_weather", SEOUL))
    assert continued(ASKED, answer, ASKS, [more]) is None
    assert continued(ASKED, answer, ASKS, []) is None


def test_it_ends_where_a_result_is_missing_or_of_another_call() -> None:
    *before, result = TOLD.request["messages"]
    answer = said(None, call("get_weather", SEOUL))
    for changed in ({**result, "tool_call_id": "call_2"}, {"role": "user", "content": "rain"}):
        told = recorded(1, messages=[*before, changed])
        assert continued(ASKED, answer, ASKS, [told]) is None


@given(st.permutations(range(3)))
def test_results_reach_the_calls_they_are_of_in_whatever_order_they_came(order: list[int]) -> None:
    calls = [call("get_weather", f'{{"city": "{n}"}}', f"call_{n}") for n in range(3)]
    results = [{"role": "tool", "tool_call_id": f"call_{n}", "content": f"{n}"} for n in range(3)]
    asks = recorded(0, calls=calls)
    told = recorded(1, messages=[*ASKED, said(None, *calls), *(results[n] for n in order)])
    own = [{**one, "id": f"own_{n}"} for n, one in enumerate(calls)]
    found = continued(ASKED, said(None, *own), asks, [told])
    assert found is not None
    assert [(m["tool_call_id"], m["content"]) for m in found[0][2:]] == [
        (f"own_{n}", f"{n}") for n in range(3)
    ]
