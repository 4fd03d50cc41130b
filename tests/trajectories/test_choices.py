"""Which of several choices was taken: what a later call begins with tells."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trajectories.choices import taken_choices
from trajectories.model import Choice, Transition

ASKED = [{"role": "user", "content": "hi"}]


def a_call(
    number: int, messages: list[dict[str, Any]], *answers: Any, **changes: Any
) -> Transition:
    return Transition(
        id=f"tr_{number}",
        trajectory_id="t",
        gateway="g",
        started_at=float(number),
        latency_seconds=0.1,
        request={"messages": messages},
        model="policy",
        choices=tuple(
            answer if isinstance(answer, Choice) else Choice(index=n, message=answer)
            for n, answer in enumerate(answers)
        ),
        **changes,
    )


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def called(arguments: str, call_id: str) -> dict[str, Any]:
    function = {"name": "add", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "function": function}],
    }


def test_calls_with_one_answer_are_none_of_its_business() -> None:
    assert taken_choices([a_call(0, ASKED, said("a"))]) == {}


def test_the_last_call_of_a_session_tells_nothing() -> None:
    assert taken_choices([a_call(0, ASKED, said("a"), said("b"))]) == {"tr_0": None}


def test_words_and_calls_of_tools_tell_which_one_it_was() -> None:
    words = a_call(0, ASKED, said("a"), said("b"))
    after = a_call(1, [*ASKED, said(" b "), *ASKED], said("c"))
    assert taken_choices([words, after]) == {"tr_0": 1}
    tools = a_call(0, ASKED, called('{"a": 1}', "x"), called('{"b": 2, "a": 1}', "y"))
    after = a_call(1, [*ASKED, called('{"a":1,"b":2}', "other"), *ASKED], said("c"))
    assert taken_choices([tools, after]) == {"tr_0": 1}


def test_what_was_edited_or_asked_otherwise_tells_nothing() -> None:
    call = a_call(0, ASKED, said("a"), said("b"))
    edited = a_call(1, [*ASKED, said("a!"), *ASKED], said("c"))
    other = a_call(2, [{"role": "user", "content": "ho"}, said("a"), *ASKED], said("c"))
    again = a_call(3, ASKED, said("c"))
    assert taken_choices([call, edited, other, again]) == {"tr_0": None}


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=2, max_size=4), st.data()
)
def test_token_ids_tell_it_where_there_are_no_words(answers: list[list[int]], data: Any) -> None:
    choices = [
        Choice(index=n, token_ids=tuple(tokens), logprobs=(-1.0,) * len(tokens))
        for n, tokens in enumerate(answers)
    ]
    picked = data.draw(st.integers(0, len(answers) - 1))
    call = a_call(0, [], *choices, prompt_token_ids=(5,))
    after = a_call(1, [], said("x"), prompt_token_ids=(5, *answers[picked], 9))
    found = taken_choices([call, after])["tr_0"]
    assert found is not None
    assert answers[found] == answers[picked]
