"""Anchors: a name for what a call was asked, equal wherever the very same was asked. Pure.

GiGPO (arXiv 2505.10978) compares what followed from one state in several
trajectories. The state of a call is its whole prompt: system prompt, what was
said, which tools were called with what and what they answered. What differs
between two runs of the same is taken out first: ids of tool calls, white space
at the ends, the order and spacing of arguments.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from trajectories.agents import messages_of, text_of
from trajectories.model import Transition
from trajectories.tool_calls import plain_call, sorted_json

_ANCHOR_BYTES = 8


def anchor_of(transition: Transition) -> str:
    """A digest of the normalised prompt; empty where there are no messages to compare."""
    turns = [_turn(message) for message in messages_of(transition)]
    if not turns:
        return ""
    return hashlib.blake2b(orjson.dumps(turns), digest_size=_ANCHOR_BYTES).hexdigest()


def _turn(message: Mapping[str, Any]) -> list[Any]:
    calls = message.get("tool_calls")
    named = [plain_call(call) for call in calls] if isinstance(calls, list) else []
    content = message.get("content")
    # What is no text (an image) is a part of the state as it stands.
    others = [part for part in content if not _is_text(part)] if isinstance(content, list) else []
    return [message.get("role"), message.get("name"), text_of(message), named, sorted_json(others)]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type", "text")).endswith("text")
