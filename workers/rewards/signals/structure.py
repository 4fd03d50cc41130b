"""Signals about the form that was asked for: JSON, a schema, and what a framework refused."""

import json
import re

from workers.rewards.schemas import first_fault
from workers.rewards.signals.signal import Signal
from workers.rewards.story import Turn
from workers.rewards.turns import schema_of

# What frameworks write when they send an answer back: pydantic's report (instructor, pydantic-ai,
# llama-index, langchain's retry parser), and smolagents' when it found no code or call to run.
_SENT_BACK = re.compile(
    r"\b\d+ validation errors? for \w|<pyai:validation_errors>|Fix the errors and try again"
    r"|\bError in (code parsing|parsing tool call|generating model output):",
    re.I,
)


def schema_broken(turn: Turn) -> str | None:
    """The request asked for JSON (`response_format`) and the answer does not hold it."""
    schema = schema_of(turn.request)
    if schema is None or not turn.answer or turn.finish_reason == "length":
        return None  # a tool call or a refusal has no text; `truncated` says the third
    try:
        value = json.loads(turn.answer)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    fault = first_fault(schema, value)
    return f"the answer: {fault}" if fault else None


def answer_sent_back(turn: Turn) -> str | None:
    """The client's framework could not use the answer and sent it back with what was wrong."""
    reply = turn.reply
    if reply is not None and _SENT_BACK.search(reply.text[:600]):
        return "the client sent the answer back as not valid"
    return None


SIGNALS = (
    Signal("schema_broken", 2, -0.3, schema_broken),
    Signal("answer_sent_back", 1, -0.3, answer_sent_back),
)
