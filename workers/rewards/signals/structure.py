"""Signals about the form that was asked for: JSON, a schema, and what a framework refused."""

import json
import re

from workers.rewards.schemas import first_fault
from workers.rewards.signals.signal import Signal
from workers.rewards.story import Turn
from workers.rewards.turns import schema_of

# How frameworks begin when they send an answer back: instructor, pydantic-ai (new and old), and
# smolagents, which found nothing to run or saw it fail. A person who pastes an error does not.
_SENT_BACK = re.compile(
    r"\s*(?:Correct your JSON ONLY RESPONSE|Validation Errors? found:"
    r"|Your previous response failed the application's validation"
    r"|\d+ validation errors?:\s*(?:```json|\[)"
    r"|(?:Error:\s*)?(?:Error in code parsing:|Error while parsing tool call"
    r"|Code execution failed at line '))"
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
    if reply is not None and _SENT_BACK.match(reply.text[:600]):
        return "the client sent the answer back as not valid"
    return None


SIGNALS = (
    Signal("schema_broken", 2, -0.3, schema_broken),
    Signal("answer_sent_back", 1, -0.3, answer_sent_back),
)
