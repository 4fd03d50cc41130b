"""openai-python, chat completions."""

import json
from typing import Any

from openai import OpenAI
from scenarios import MODEL, TOOL, Weather, get_weather, play

TOOLS: list[Any] = [{"type": "function", "function": TOOL}]
client = OpenAI()


def plain(question: str) -> Any:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0.3, seed=7, max_completion_tokens=64
    )
    return timeless(answer)


def streamed(question: str) -> Any:
    chunks = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], stream=True
    )
    return [timeless(chunk) for chunk in chunks]


def streamed_with_usage(question: str) -> Any:
    return collect(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )


def several(question: str) -> Any:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], n=2, logprobs=True
    )
    return [[choice.message.content, choice.finish_reason] for choice in answer.choices]


def tools(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        choice = client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS
        ).choices[0]
        seen.append([choice.message, choice.finish_reason])
        messages.append(choice.message.to_dict())
        messages += [result(call.id, call.function) for call in choice.message.tool_calls or []]
    return seen


def tools_streamed(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        with client.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as stream:
            kinds = [event.type for event in stream if event.type != "chunk"]
            message = stream.get_final_completion().choices[0].message
        seen.append([message, kinds])
        messages.append(message.to_dict(exclude_none=True))
        messages += [result(call.id, call.function) for call in message.tool_calls or []]
    return seen


def structured(question: str) -> Any:
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": question}], response_format=Weather
    )
    return answer.choices[0].message.parsed


def forced_tool(question: str) -> Any:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": TOOL["name"]}},
    )
    return answer.choices[0].message.tool_calls


def named(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    session = {"session_id": "named-by-the-body", "agent_id": "guide"}
    answers = [
        client.chat.completions.create(model=MODEL, messages=messages, extra_body=session),
        client.chat.completions.create(model=MODEL, messages=messages, extra_body=session),
    ]
    return [answer.choices[0].message.content for answer in answers]


def result(call_id: str, function: Any) -> dict[str, Any]:
    content = get_weather(**json.loads(function.arguments))
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def timeless(answer: Any) -> Any:
    """All that came, to the last null; an answer's time is its own."""
    return {name: value for name, value in answer.to_dict().items() if name != "created"}


def collect(stream: Any) -> Any:
    """A stream as an application reads it."""
    texts, finishes, usages = [], [], []
    for chunk in stream:
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            texts += [choice.delta.content] if choice.delta.content else []
            finishes += [choice.finish_reason] if choice.finish_reason else []
    return {"text": "".join(texts), "pieces": len(texts), "finish": finishes, "usage": usages}


if __name__ == "__main__":
    play(
        plain,
        streamed,
        streamed_with_usage,
        several,
        tools,
        tools_streamed,
        structured,
        forced_tool,
        named,
    )
