"""An agent that answers number questions with a calculator: any application, in one function.

It knows the OpenAI API and a base URL, nothing else; pointed at OpenAI it would work as well. It
streams, runs the tool itself, gives tool errors back to the model, and says when a request
failed or a stream ended before its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import openai

from ratchet.demo.questions import CALCULATOR, run_tool

MAX_CALLS = 3
MAX_TOKENS = 64


class Failure(StrEnum):
    """Why a session ended without an answer."""

    REQUEST = "request"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call as it arrived, and what the tool said."""

    id: str
    name: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application has in hand at the end of a session."""

    text: str
    response_ids: tuple[str, ...]
    models: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    requests: int
    failure: Failure | None = None


class StreamCut(Exception):
    """The stream ended without a finish reason."""


@dataclass(slots=True)
class _Turn:
    """One streamed response, put together."""

    id: str = ""
    model: str = ""
    text: str = ""
    finish_reason: str | None = None
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def add(self, chunk: Any) -> None:
        self.id, self.model = chunk.id or self.id, chunk.model or self.model
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            for piece in choice.delta.tool_calls or []:
                call = self.calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                call["id"] = piece.id or call["id"]
                call["name"] += (piece.function and piece.function.name) or ""
                call["arguments"] += (piece.function and piece.function.arguments) or ""


async def _ask(
    client: openai.AsyncOpenAI, model: str, messages: list[Any], temperature: float
) -> _Turn:
    turn, tools = _Turn(), cast(Any, [CALCULATOR])
    stream: openai.AsyncStream[Any] = await client.chat.completions.create(
        model=model,
        messages=messages,
        tools=tools,
        temperature=temperature,
        max_tokens=MAX_TOKENS,
        stream=True,
    )
    async with stream:
        async for chunk in stream:
            turn.add(chunk)
    if turn.finish_reason not in {"stop", "length", "tool_calls"}:
        raise StreamCut(turn.id)
    return turn


def _assistant_message(turn: _Turn) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": turn.text or None,
        "tool_calls": [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in turn.calls.values()
        ],
    }


async def answer(
    client: openai.AsyncOpenAI,
    model: str,
    question: str,
    *,
    temperature: float = 1.0,
    tool: Callable[[str, str], str] = run_tool,
) -> Answer:
    """Answer one question with at most three rounds of tool calls."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    turns: list[_Turn] = []
    calls: list[ToolCall] = []
    failure, requests = None, 0
    for _ in range(MAX_CALLS + 1):
        requests += 1
        try:
            turn = await _ask(client, model, messages, temperature)
        except StreamCut:
            failure = Failure.STREAM
            break
        except openai.OpenAIError:
            failure = Failure.REQUEST
            break
        turns.append(turn)
        if not turn.calls:
            break
        messages.append(_assistant_message(turn))
        for call in turn.calls.values():
            result = tool(call["name"], call["arguments"])
            calls.append(ToolCall(call["id"], call["name"], call["arguments"], result))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return Answer(
        text="" if failure or turns[-1].calls else turns[-1].text,
        response_ids=tuple(turn.id for turn in turns),
        models=tuple(turn.model for turn in turns),
        calls=tuple(calls),
        requests=requests,
        failure=failure,
    )
