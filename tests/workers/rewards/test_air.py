"""AIR signals: what each one sees, and what it must not see."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.workers.records import WEATHER, call, transition
from trajectories.errors import SettingsError
from trajectories.model import Choice, Outcome, Trajectory, Transition
from trajectories.settings import AgentSettings, RewardSettings
from workers.rewards.air import air_rewards, air_rules
from workers.rewards.signals import SIGNALS

RULES = air_rules(RewardSettings())
GOOD = call("get_weather", '{"city":"Seoul"}')


def fired(*transitions: Transition) -> list[tuple[str, str]]:
    """(transition, signal) of every AIR reward of a trajectory of these."""
    trajectory = Trajectory(id="traj_a", started_at=0, updated_at=0, transitions=transitions)
    rewards = air_rewards(trajectory, RULES)
    return [(str(reward.transition_id)[-1], reward.name) for reward in rewards]


def answered(result: Any, call_id: str = "call_1") -> list[dict[str, Any]]:
    """The messages of the next request: the call, and what the tool said."""
    return [
        {"role": "user", "content": "weather in Seoul?"},
        {"role": "assistant", "content": None, "tool_calls": [{**GOOD, "id": call_id}]},
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]


def test_a_good_tool_call_and_its_use_fire_nothing() -> None:
    first = transition(0, calls=[GOOD], finish_reason="tool_calls", tools=[WEATHER])
    second = transition(1, content="Sunny.", messages=answered('{"sky":"clear"}'), tools=[WEATHER])
    assert fired(first, second) == []


@pytest.mark.parametrize("arguments", ['{"city": "Seo', "city=Seoul", '["Seoul"]', "null"])
def test_arguments_that_are_no_json_object_fire(arguments: str) -> None:
    broken = transition(0, calls=[call("get_weather", arguments)], tools=[WEATHER])
    assert ("0", "tool_call_unparsable") in fired(broken)


def test_a_tool_without_arguments_may_be_called_with_empty_text() -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    assert fired(transition(0, calls=[call("now", "")], tools=[tool])) == []


@pytest.mark.parametrize(
    "text",
    [
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": }\n</tool_call>',
        '<tool_call>{"name": "get_weather"',
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call></tool_call>",
        "<tool_call><function=get_weather><parameter=city>Seoul</tool_call>",
    ],
)
def test_a_broken_call_left_in_the_text_fires(text: str) -> None:
    assert fired(transition(0, content=text, tools=[WEATHER])) == [("0", "tool_call_unparsable")]


@pytest.mark.parametrize(
    "text",
    [
        "I would call the weather tool.",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Seoul"}}\n</tool_call>',
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSeoul\n</parameter>\n</function>\n</tool_call>",
    ],
)
def test_a_call_in_the_text_that_can_be_read_fires_nothing(text: str) -> None:
    assert fired(transition(0, content=text)) == []


def test_a_call_cut_by_the_token_limit_is_truncated_and_no_more() -> None:
    cut = transition(0, content='<tool_call>{"name": "get_w', finish_reason="length")
    assert fired(cut) == [("0", "truncated")]


def test_a_tool_that_was_not_offered_fires_once() -> None:
    calls = [call("search_web", "{}", "c1"), call("browse", "{}", "c2")]
    assert fired(transition(0, calls=calls, tools=[WEATHER])) == [("0", "unknown_tool")]


@pytest.mark.parametrize(
    "arguments", ['{"days": 3}', '{"city": 7}', '{"city": "Seoul", "unit": "C"}']
)
def test_arguments_that_break_the_tools_schema_fire(arguments: str) -> None:
    broken = transition(0, calls=[call("get_weather", arguments)], tools=[WEATHER])
    assert fired(broken) == [("0", "tool_arguments_invalid")]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "no such type"},
        {"$ref": "http://169.254.169.254/latest/meta-data"},
        {"$ref": "#/nowhere"},
        {"properties": {"city": {"pattern": "("}}},
        {"$ref": "#"},
    ],
)
def test_a_schema_that_is_broken_itself_is_not_the_models_fault(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": schema}}
    assert fired(transition(0, calls=[GOOD], tools=[tool])) == []


@pytest.mark.parametrize(
    "result",
    [
        '{"error": "city not found"}',
        '{"error": {"code": 404}}',
        '{"status": 500, "body": ""}',
        '{"status_code": 404}',
        '{"isError": true, "content": []}',
        "Error: no such city",
        "Error executing tool 'get_weather': timeout",
        "ValueError: unknown city",
        "HTTP 503",
        "Error 404: no such city",
        "status code: 500",
        "An error occurred while running the tool. Please try again.",
        "<tool_use_error>File does not exist.</tool_use_error>",
        '{"status": "error"}',
        '{"status": "failed", "message": "no connection"}',
        'Traceback (most recent call last):\n  File "a.py", line 1\nKeyError: 1',
        [{"type": "text", "text": "Error: no such city"}],
    ],
)
def test_a_tool_error_counts_against_the_call_that_caused_it(result: Any) -> None:
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    second = transition(1, content="Sorry.", messages=answered(result), tools=[WEATHER])
    third = transition(2, content="Bye.", messages=answered(result), tools=[WEATHER])
    assert fired(first, second, third) == [("0", "tool_result_error")]


@pytest.mark.parametrize(
    "result",
    [
        "no errors found",
        "Errors in the log: 3",
        "Error log: 3 lines, all old",
        '{"error": null, "sky": "clear"}',
        '{"error": false}',
        '{"status": 200}',
        '{"status": "ok"}',
        '{"status": "failed", "build": 12}',
        "Status: 500 pairs in stock",
        "HTTP is a protocol",
        "Error 14 of 20 was mended",
        "{not json",
        "[1]",
    ],
)
def test_a_result_that_only_speaks_of_errors_is_none(result: Any) -> None:
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    second = transition(1, content="Fine.", messages=answered(result), tools=[WEATHER])
    assert fired(first, second) == []


def test_anthropic_and_responses_shapes_of_a_tool_error_are_read() -> None:
    block = {"type": "tool_result", "tool_use_id": "call_1", "content": "boom", "is_error": True}
    item = {"type": "function_call_output", "call_id": "call_1", "output": "Error: boom"}
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    anthropic = transition(1, content="?", messages=[{"role": "user", "content": [block]}])
    responses = transition(1, content="?", input=[item])
    assert fired(first, anthropic) == [("0", "tool_result_error")]
    assert fired(first, responses) == [("0", "tool_result_error")]


def test_the_same_call_after_its_result_is_a_repetition() -> None:
    again = call("get_weather", '{ "city": "Seoul" }', "call_2")
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    second = transition(1, calls=[again], messages=answered('{"sky":"clear"}'), tools=[WEATHER])
    known = [*answered('{"sky":"clear"}'), *answered('{"sky":"clear"}', "call_2")[1:]]
    third = transition(2, content="Clear.", messages=known, tools=[WEATHER])
    assert fired(first, second) == [], "what the second call brought is not known yet"
    assert fired(first, second, third) == [("1", "repeated_call")]


def test_the_same_call_with_another_result_was_worth_it() -> None:
    again = call("get_weather", '{ "city": "Seoul" }', "call_2")
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    second = transition(1, calls=[again], messages=answered('{"sky":"clear"}'), tools=[WEATHER])
    known = [*answered('{"sky":"clear"}'), *answered('{"sky":"grey"}', "call_2")[1:]]
    third = transition(2, content="Grey.", messages=known, tools=[WEATHER])
    assert fired(first, second, third) == []


def test_calling_again_without_a_result_or_after_an_error_is_no_repetition() -> None:
    again = call("get_weather", '{"city": "Seoul"}', "call_2")
    first = transition(0, calls=[GOOD], tools=[WEATHER])
    retry = transition(1, calls=[again], messages=answered("Error: timeout"), tools=[WEATHER])
    assert fired(first, transition(1, calls=[again], tools=[WEATHER])) == []
    assert fired(first, retry) == [("0", "tool_result_error")]


def test_two_equal_calls_in_one_answer_are_no_repetition() -> None:
    calls = [GOOD, {**GOOD, "id": "call_2"}]
    assert fired(transition(0, calls=calls, tools=[WEATHER])) == []


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


@pytest.mark.parametrize("text", ["n is 3", '{"n": "three"}', '{"m": 3}', '```json\n{"n": 3}\n```'])
def test_an_answer_that_breaks_the_schema_fires(text: str) -> None:
    assert fired(transition(0, content=text, response_format=FORMAT)) == [("0", "schema_broken")]


@pytest.mark.parametrize("wanted", [FORMAT, {"type": "json_object"}, {"type": "text"}, None, "x"])
def test_an_answer_that_holds_the_format_fires_nothing(wanted: Any) -> None:
    assert fired(transition(0, content='{"n": 3}', response_format=wanted)) == []


def replied(text: str) -> list[tuple[str, str]]:
    """What fires when `text` is sent back to an answer."""
    said = [
        {"role": "user", "content": "Write a model."},
        {"role": "assistant", "content": "class P: ..."},
        {"role": "user", "content": text},
    ]
    first = transition(0, content="class P: ...")
    return fired(first, transition(1, content="Better.", messages=said))


@pytest.mark.parametrize(
    "text",
    [
        "Correct your JSON ONLY RESPONSE, based on the following errors:\n1 validation error for P",
        "1 validation errors: [{}]\n\nFix the errors and try again.",
        "Error:\nCode execution failed at line 'f()' due to: ValueError: 3",
    ],
)
def test_what_a_framework_sends_back_fires(text: str) -> None:
    assert replied(text) == [("0", "answer_sent_back")]


@pytest.mark.parametrize(
    "text",
    [
        "I get this: 2 validation errors for P",
        "2 validation errors for P\nage\n  Field required",
        "Error: it does not compile",
        "Observation:\nno validation errors found",
    ],
)
def test_an_error_that_a_person_pastes_is_no_answer_sent_back(text: str) -> None:
    assert replied(text) == []


def test_json_mode_wants_an_object() -> None:
    listed = transition(0, content="[3]", response_format={"type": "json_object"})
    assert fired(listed) == [("0", "schema_broken")]


def test_a_tool_call_instead_of_the_answer_breaks_no_schema() -> None:
    calling = transition(0, calls=[GOOD], tools=[WEATHER], response_format=FORMAT)
    assert fired(calling) == []


@pytest.mark.parametrize("outcome", [Outcome.INCOMPLETE, Outcome.DISCONNECTED, Outcome.FAILED])
def test_an_answer_that_broke_off_is_not_the_models_fault(outcome: Outcome) -> None:
    cut = transition(0, content="<tool_call>{", finish_reason="length", outcome=outcome)
    assert fired(cut) == []


def test_a_code_agent_that_writes_its_actions_as_text_fires_nothing() -> None:
    text = 'Thought: I look it up.\n<code>\nprint(web_search("Seoul weather"))\n</code>'
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You are a code agent."}]},
        {"role": "user", "content": [{"type": "text", "text": "Observation:\nError: none"}]},
    ]
    assert fired(transition(0, content=text, messages=messages, stop=["</code>"])) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"messages": [None, 3, {"role": "tool"}, {"content": [None, {"type": "tool_result"}]}]},
        {"tools": [None, {"function": None}, {"function": {"name": 3}}]},
        {"tools": "get_weather", "input": "text", "text": 3},
        {"response_format": {"type": "json_schema", "json_schema": None}},
    ],
)
def test_odd_bodies_are_read_without_an_error(odd: dict[str, Any]) -> None:
    strange = transition(0, content='{"a":1}', calls=[{"function": {"name": "f"}}, {}])
    strange = strange.model_copy(update={"request": {**strange.request, **odd}})
    fired(strange, strange)


def test_nothing_is_positive_and_every_signal_is_documented() -> None:
    assert all(-1 <= signal.default <= 0 for signal in SIGNALS)
    off = {signal.name for signal in SIGNALS if signal.default == 0}
    assert off == {"refused", "abandoned"}
    assert len({signal.name for signal in SIGNALS}) == len(SIGNALS)
    assert all(signal.find.__doc__ and signal.find.__name__ == signal.name for signal in SIGNALS)


def test_a_value_is_overridden_by_name_and_zero_switches_off() -> None:
    cut = transition(0, content="a", finish_reason="length")
    trajectory = Trajectory(id="traj_a", started_at=0, updated_at=0, transitions=(cut,))
    half = air_rewards(trajectory, air_rules(RewardSettings(air={"truncated": -0.5})))
    assert [reward.value for reward in half] == [-0.5]
    assert air_rewards(trajectory, air_rules(RewardSettings(air={"truncated": 0}))) == []


@pytest.mark.parametrize("overrides", [{"truncatd": -0.1}, {"truncated": 0.1}, {"truncated": -2}])
def test_an_override_that_cannot_be_meant_is_refused_by_name(overrides: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"rewards\.air\.truncat"):
        air_rules(RewardSettings(air=overrides))
    with pytest.raises(SettingsError, match=r"agents\.support\.air\.truncat"):
        air_rules(RewardSettings(), {"support": AgentSettings(air=overrides)})


def test_computing_twice_gives_the_same_ids() -> None:
    cut = transition(0, content="a", finish_reason="length")
    trajectory = Trajectory(id="traj_a", started_at=0, updated_at=0, transitions=(cut,))
    assert air_rewards(trajectory, RULES) == air_rewards(trajectory, RULES)


def test_the_page_lists_every_signal_with_its_version_and_value() -> None:
    page = (Path(__file__).parents[3] / "docs" / "air.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (-?[\d.]+)", page, flags=re.MULTILINE)
    assert rows == [(signal.name, str(signal.version), f"{signal.default:g}") for signal in SIGNALS]


def several(number: int, *answers: dict[str, Any], **request: Any) -> Transition:
    """A call with several choices."""
    made = transition(number, tools=[WEATHER], **request)
    found = tuple(
        Choice(index=n, message={"role": "assistant", "content": None, **answer})
        for n, answer in enumerate(answers)
    )
    return made.model_copy(update={"choices": found})


def fired_by_choice(*transitions: Transition) -> list[tuple[str, int | None, str]]:
    trajectory = Trajectory(id="traj_a", started_at=0, updated_at=0, transitions=transitions)
    rewards = air_rewards(trajectory, RULES)
    assert len({reward.id for reward in rewards}) == len(rewards)
    return [(str(r.transition_id)[-1], r.choice, r.name) for r in rewards]


def test_each_of_several_choices_answers_for_itself() -> None:
    broken = {"tool_calls": [call("get_weather", "city=Seoul")]}
    call_of_two = several(0, {"tool_calls": [GOOD]}, broken)
    assert fired_by_choice(call_of_two) == [("0", 1, "tool_call_unparsable")]
    after = transition(1, content="Sunny.", messages=answered('{"sky":"clear"}'), tools=[WEATHER])
    assert fired_by_choice(call_of_two, after) == [("0", 1, "tool_call_unparsable")]


def test_a_fault_of_the_choice_that_was_taken_is_the_calls() -> None:
    broken = {"tool_calls": [call("get_weather", "city=Seoul")]}
    messages = answered("error: no such city")
    messages[1]["tool_calls"] = broken["tool_calls"]
    after = transition(1, content="Sorry.", messages=messages, tools=[WEATHER])
    found = fired_by_choice(several(0, {"tool_calls": [GOOD]}, broken), after)
    assert ("0", None, "tool_call_unparsable") in found
    assert not [name for number, choice, name in found if choice is not None]
