"""Anchors: the very same question has the same name, whatever ids its tool calls had."""

from typing import Any

from tests.trainer.records import a_transition
from trainer.batch.anchors import anchor_of


def anchor(*messages: dict[str, Any]) -> str:
    return anchor_of(a_transition("t", request={"model": "m", "messages": list(messages)}))


def tool_turns(call_id: str, arguments: str, result: str = "8") -> list[dict[str, Any]]:
    call = {"id": call_id, "type": "function", "function": {"name": "add", "arguments": arguments}}
    return [
        {"role": "user", "content": "5 + 3?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": result},
    ]


def test_ids_spacing_and_the_order_of_arguments_make_no_difference() -> None:
    one = anchor(*tool_turns("call_1", '{"a": 5, "b": 3}'))
    assert one == anchor(*tool_turns("call_2", '{"b":3,"a":5}'))
    assert anchor({"role": "user", "content": "hi "}) == anchor(
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    )


def test_another_result_another_role_or_another_image_is_another_state() -> None:
    found = [
        anchor(*tool_turns("c", '{"a": 5}')),
        anchor(*tool_turns("c", '{"a": 5}', result="9")),
        anchor({"role": "user", "content": "hi"}),
        anchor({"role": "system", "content": "hi"}),
        anchor({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}),
        anchor({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "b"}}]}),
    ]
    assert len(set(found)) == len(found)


def test_what_cannot_be_read_is_no_state_or_one_as_it_stands() -> None:
    assert anchor_of(a_transition("t", request={"prompt": "x"})) == ""
    assert anchor({"role": "assistant", "tool_calls": ["odd", {"function": None}]})
    assert anchor(*tool_turns("c", "not JSON")) != anchor(*tool_turns("c", "not JSON either"))
