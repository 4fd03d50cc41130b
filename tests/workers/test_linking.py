"""Linking by content, the pure part: what counts as the same, and what never links."""

from collections import defaultdict
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.calls import CALL_ID, LONG, assistant, made, tool_call, user
from trajectories.keys import LINK_MEMBERS_KEPT, LINK_TTL_SECONDS
from trajectories.model import Outcome, Transition
from workers.linking import (
    Link,
    call_digest,
    decide,
    long_ids,
    marks_of,
    normalise,
    probes_of,
)

ASK = user("What is the weather in Seoul?")

texts = st.text(max_size=40)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": texts}) | st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts})}
)
calls = st.builds(
    tool_call,
    json_values | json_values.map(lambda value: orjson.dumps(value).decode()) | texts,
    name=texts,
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "developer", None])},
    optional={
        "content": st.none() | texts | st.lists(parts, max_size=3),
        "name": st.none() | texts,
        "tool_calls": st.none() | st.lists(calls, max_size=2),
        "function_call": st.none() | calls.map(lambda call: call["function"]),
        "refusal": st.none() | texts,
        "annotations": st.none() | st.lists(st.integers(), max_size=1),
        "reasoning": st.none() | texts,
        "tool_call_id": texts,
    },
)


def link(later: Transition, *earlier: Transition) -> Link | None:
    """What links `later` when `earlier` were stored before it."""
    noted: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for transition in earlier:
        for mark in marks_of(transition):
            if not any(member == mark.member for member, _ in noted[mark.digest]):
                noted[mark.digest].append((mark.member, transition.started_at))
    return decide(later, probes_of(later), noted)


def changes(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message as clients send it back: nulls dropped, parts, arguments written anew."""
    slim = {name: value for name, value in message.items() if value not in (None, [], "")}
    rewritten = [
        tool_call(
            orjson.dumps(
                orjson.loads(call["function"]["arguments"]), option=orjson.OPT_INDENT_2
            ).decode(),
            call["id"],
            call["function"]["name"],
        )
        for call in message.get("tool_calls") or ()
    ]
    parts = [{"type": "text", "text": message["content"]}] if message.get("content") else []
    return [
        slim,
        {**message, "content": message.get("content") or "", "annotations": [], "audio": None},
        {**slim, "content": parts, "refusal": ""},
        {**slim, "tool_calls": rewritten, "reasoning_content": "thought"},
        {**slim, "content": f"\n{message.get('content') or ''} \n"},
    ]


@given(messages)
def test_normalising_twice_is_normalising_once(message: dict[str, Any]) -> None:
    once = normalise(message)
    assert normalise(once) == once


@given(
    text=st.text(alphabet="abc xyz", min_size=1, max_size=60),
    arguments=st.dictionaries(texts, json_values, max_size=3),
    has_tool=st.booleans(),
    pick=st.integers(0, 4),
    roles=st.permutations(["system", "developer"]),
)
def test_an_answer_links_however_a_client_writes_it(
    text: str, arguments: dict[str, Any], has_tool: bool, pick: int, roles: list[str]
) -> None:
    tools = [tool_call(orjson.dumps(arguments).decode(), "call_1")] if has_tool else []
    answer = assistant(text, *tools)
    first = made("a", [{"role": roles[0], "content": "Answer."}, ASK], answer)
    echoed = [{"role": roles[1], "content": "Be kind."}, ASK, changes(answer)[pick], user("go on")]
    assert link(made("b", echoed, at=1_010.0), first) == Link("traj_a", "prefix")


@given(
    key=st.none() | st.text(max_size=5),
    other=st.none() | st.text(max_size=5),
    answer=st.sampled_from([assistant(LONG), assistant(None, tool_call("{}")), assistant(LONG)]),
)
def test_another_key_never_links(
    key: str | None, other: str | None, answer: dict[str, Any]
) -> None:
    first = made("a", [ASK], answer, key=key)
    later = made("b", [ASK, answer, user("go on")], at=1_010.0, key=other)
    assert (link(later, first) is not None) == ((key or "") == (other or ""))


def test_arguments_are_compared_as_what_they_mean() -> None:
    first = made("a", [ASK], assistant(None, tool_call('{"city":"Seoul",  "days": 2.0}', "call_1")))
    echo = assistant("", tool_call('{"days": 2, "city": "\\u0053eoul"}', "call_7"))
    assert link(made("b", [ASK, echo], at=1_001.0), first) == Link("traj_a", "prefix")
    echo = assistant("", tool_call({"days": 3, "city": "Seoul"}, "call_7"))
    assert link(made("b", [ASK, echo], at=1_001.0), first) is None


def test_arguments_without_measure_are_text() -> None:
    deep = '{"a":' * 500 + "1" + "}" * 500
    first = made("a", [ASK], assistant(None, tool_call(deep, "call_1")))
    later = made("b", [ASK, assistant(None, tool_call(deep, "call_1"))], at=1_001.0)
    assert link(later, first) == Link("traj_a", "prefix")


def test_a_speakers_name_counts_and_the_models_own_does_not() -> None:
    hello = user("Hello.", name="bob")
    first = made("a", [hello], "Hi.")
    echo = assistant("Hi.", name="assistant_1")  # Semantic Kernel
    assert link(made("b", [hello, echo], at=1_001.0), first) == Link("traj_a", "prefix")
    ann = user("Hello.", name="ann")
    assert link(made("c", [ann, echo], at=1_001.0), first) is None


def test_a_picture_is_part_of_what_was_said() -> None:
    def look(url: str, **more: Any) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": url}, **more}
        return user([{"type": "text", "text": "What is it?"}, picture])

    first = made("a", [look("data:1")], "A cat.")
    echo = assistant("A cat.")
    assert link(made("b", [look("data:1"), echo], at=1_001.0), first) == Link("traj_a", "prefix")
    assert link(made("b", [look("data:2"), echo], at=1_001.0), first) is None
    cached = look("data:1", cache_control={"type": "ephemeral"})
    assert link(made("b", [cached, echo], at=1_001.0), first) == Link("traj_a", "prefix")


@pytest.mark.parametrize(
    ("call_id", "is_long"),
    [
        (CALL_ID, True),
        ("toolu_01A09q90qw90lq917835lq9k", True),
        ("toolu_vrtx_01A09q90qw90lq917835lq9k", True),
        ("fc_0f6b3f5d5f2c4f0b8f7e", True),
        ("chatcmpl-tool-74dd925502b04701b0d8d2cc3c06e95a", True),
        ("call_123e4567-e89b-12d3-a456-426614174000", True),
        ("call_1", False),
        ("call_00000000000000000000000000000000000", False),  # agno, for ids it finds too long
        ("call_0000000000000000000000001a", False),
        ("call_20261120191200010001", False),
        ("call_getCurrentWeatherForecast", False),
        ("call_get_weather_of_city_2", False),
        ("functions.get_weather:0", False),
    ],
)
def test_only_long_random_ids_count(call_id: str, is_long: bool) -> None:
    text = f"Calling tools:\n[{{'id': '{call_id}', 'type': 'function'}}]"
    assert list(long_ids(text)) == ([call_id] if is_long else [])


def test_an_id_links_an_edited_history_and_is_found_in_text() -> None:
    first = made("a", [ASK], assistant(None, tool_call("{}")))
    result = {"role": "tool", "tool_call_id": CALL_ID, "content": "sunny"}
    for message in (result, user(f"Observation of {CALL_ID}: sunny")):
        later = made("b", [user("a summary of all that"), message], at=1_001.0)
        assert link(later, first) == Link("traj_a", "tool_call_id")


def test_the_newest_tool_call_decides() -> None:
    other = "call_9f3KdPq04LmTn7YbWc2RvAsd"
    first = made("a", [ASK], assistant(None, tool_call("{}")))
    second = made("b", [user("else")], assistant(None, tool_call("{}", other)))
    history = [assistant(None, tool_call("{}")), assistant(None, tool_call("{}", other))]
    assert link(made("c", history, at=1_001.0), first, second) == Link("traj_b", "tool_call_id")


def test_the_longest_prefix_wins() -> None:
    first = made("a", [ASK], "Sunny.", at=1_000.0)
    fork = made("f", [ASK, assistant("Sunny."), user("sure?")], "Yes.", at=1_001.0)
    later = [ASK, assistant("Sunny."), user("sure?"), assistant("Yes."), user("ok")]
    assert link(made("c", later, at=1_002.0), first, fork) == Link("traj_f", "prefix")


def test_the_same_question_alone_never_links() -> None:
    first = made("a", [ASK], LONG)
    assert link(made("b", [ASK], at=1_001.0), first) is None
    few_shot = [user("1+1?"), assistant("2"), ASK]
    assert link(made("b", few_shot, at=1_001.0), made("a", few_shot, LONG)) is None


def test_siblings_go_on_with_the_one_whose_answer_they_carry() -> None:
    best_of_n = [made(name, [ASK], f"Answer {name}.") for name in "abc"]
    later = made("d", [ASK, assistant("Answer b."), user("go on")], at=1_001.0)
    assert link(later, *best_of_n) == Link("traj_b", "prefix")


def test_each_of_several_choices_links() -> None:
    first = made("a", [ASK], "One.", "Two.")
    for answer in ("One.", "Two."):
        later = made("b", [ASK, assistant(answer), user("go on")], at=1_001.0)
        assert link(later, first) == Link("traj_a", "prefix")


def test_the_same_conversation_twice_is_nobodys() -> None:
    twins = [made(name, [ASK], LONG) for name in "ab"]
    assert link(made("c", [ASK, assistant(LONG), user("go on")], at=1_001.0), *twins) is None


def test_of_equal_texts_the_one_with_the_same_conversation_before_it_counts() -> None:
    tasks = [user("Task one.", name="user"), user("Task two.", name="user")]
    equal = [made(str(number), [task], LONG) for number, task in enumerate(tasks)]
    later = made("c", [tasks[1], user(LONG, name="planner")], at=1_001.0)
    assert link(later, *equal) == Link("traj_1", "text")
    stranger = made("d", [user("Task three."), user(LONG)], at=1_001.0)
    assert link(stranger, *equal) is None


@pytest.mark.parametrize("role", ["user", "tool", "assistant"])
def test_a_text_links_in_any_role_of_the_conversation(role: str) -> None:
    first = made("a", [ASK], LONG)
    message = {"role": role, "content": LONG, "tool_call_id": "call_1"}
    assert link(made("b", [user("else"), message], at=1_001.0), first) == Link("traj_a", "text")


def test_a_system_prompt_that_we_wrote_links_nothing() -> None:
    first = made("a", [user("Write a system prompt.")], LONG)
    later = made("b", [{"role": "system", "content": LONG}, ASK], at=1_001.0)
    assert link(later, first) is None


def test_a_system_prompt_alone_is_no_conversation() -> None:
    first = made("a", [{"role": "system", "content": "Greet."}], "Hello!")
    later = [{"role": "system", "content": "Else."}, assistant("Hello!"), ASK]
    assert link(made("b", later, at=1_001.0), first) is None


def test_short_texts_are_said_by_everybody() -> None:
    for length, is_linked in ((23, False), (24, True)):
        first = made("a", [ASK], "x" * length)
        later = made("b", [user("else"), user("x" * length)], at=1_001.0)
        assert (link(later, first) is not None) == is_linked


def test_our_text_with_something_after_it_links_as_the_models_words_only() -> None:
    first = made("a", [ASK], LONG)
    longer = f"{LONG}\n</code>\nCalling tools: python"
    later = made("b", [user("edited"), assistant(longer)], at=1_001.0)
    assert link(later, first) == Link("traj_a", "text")
    assert link(made("b", [user("edited"), user(longer)], at=1_001.0), first) is None


def test_of_two_beginnings_the_longer_one_is_it() -> None:
    first, second = made("a", [ASK], LONG), made("b", [user("else")], f"{LONG} Really.")
    later = made("c", [user("edited"), assistant(f"{LONG} Really. <end>")], at=1_001.0)
    assert link(later, first, second) == Link("traj_b", "text")


def test_a_sub_agent_is_asked_what_a_tool_call_said() -> None:
    question = "Translate to Korean: the weather is fine today."
    arguments = orjson.dumps({"input": question}).decode()
    first = made("a", [ASK], assistant(None, tool_call(arguments)))
    later = [{"role": "system", "content": "You translate."}, user(question)]
    assert link(made("b", later, at=1_001.0), first) == Link("traj_a", "text")
    twin = made("c", [user("else")], assistant(None, tool_call(arguments)))
    assert link(made("b", later, at=1_001.0), first, twin) is None


def test_the_link_ends_after_a_day_and_never_goes_back_in_time() -> None:
    first = made("a", [ASK], LONG, at=1_000.0)
    for seconds, is_linked in (
        (LINK_TTL_SECONDS, True),
        (LINK_TTL_SECONDS + 1, False),
        (-1, False),
    ):
        later = made("b", [ASK, assistant(LONG), user("go on")], at=1_000.0 + seconds)
        assert (link(later, first) is not None) == is_linked


def test_a_mark_whose_oldest_members_were_dropped_says_nothing() -> None:
    later = made("z", [ASK, assistant(LONG), user("go on")], at=1_001.0)
    digest = probes_of(later)[0].digest
    full = [("traj_a", 1_000.0)] * LINK_MEMBERS_KEPT
    assert decide(later, probes_of(later), {digest: full}) is None
    assert decide(later, probes_of(later), {digest: full[1:]}) == Link("traj_a", "prefix")


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETE])
def test_an_answer_that_broke_off_leaves_no_mark(outcome: Outcome) -> None:
    assert marks_of(made("a", [ASK], LONG, outcome=outcome)) == []


def test_attempts_at_one_call_have_one_digest() -> None:
    first = made("a", [ASK], LONG)
    assert call_digest(first) == call_digest(made("b", [ASK], attempt=1, at=1_001.0))
    others = [
        made("b", [user("else")]),
        made("b", [ASK], key="key_b"),
        made("b", [ASK], source="header", trajectory="traj_s"),
    ]
    assert len({call_digest(entry) for entry in (first, *others)}) == 4


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        {"messages": None},
        {"messages": ["x", 1, {}]},
        {"messages": [{"role": ["odd"], "content": 1, "tool_calls": "x"}]},
        {"messages": [{"role": "assistant", "content": [1, {"text": 2}], "tool_calls": [{}, 3]}]},
        {"prompt": "completions"},
    ],
)
def test_odd_bodies_are_read_without_an_error(request_body: dict[str, Any]) -> None:
    odd = made("a", [], assistant(None, {"id": 3, "function": "f"}, {"function": {}}))
    odd = odd.model_copy(update={"request": request_body})
    assert decide(odd, probes_of(odd), {}) is None
    assert isinstance(marks_of(odd), list)
