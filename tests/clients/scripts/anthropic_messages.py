"""anthropic-python, messages."""

from typing import Any

from anthropic import Anthropic
from scenarios import TOOL, Weather, get_weather, play

MODEL = "claude-sonnet-4-6"
TOOLS: list[Any] = [
    {
        "name": TOOL["name"],
        "description": TOOL["description"],
        "input_schema": TOOL["parameters"],
    }
]
client = Anthropic()


def plain(question: str) -> Any:
    answer = client.messages.create(
        model=MODEL,
        max_tokens=200,
        system=[{"type": "text", "text": "Be brief."}],
        messages=[{"role": "user", "content": question}],
    )
    return [answer.content, answer.stop_reason, answer.usage, answer.model]


def streamed(question: str) -> Any:
    kinds: list[str] = []
    text = ""
    for event in client.messages.create(
        model=MODEL, max_tokens=200, messages=[{"role": "user", "content": question}], stream=True
    ):
        if not kinds or kinds[-1] != event.type:
            kinds.append(event.type)
        if event.type == "content_block_delta":
            text += event.delta.text
    return {"text": text, "kinds": kinds}


def tools(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        answer = client.messages.create(model=MODEL, max_tokens=200, messages=messages, tools=TOOLS)
        seen.append([answer.content, answer.stop_reason])
        messages += turn(answer)
    return seen


def tools_streamed(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        with client.messages.stream(
            model=MODEL, max_tokens=200, messages=messages, tools=TOOLS
        ) as stream:
            text = "".join(stream.text_stream)
            answer = stream.get_final_message()
        seen.append([text, answer.content, answer.stop_reason])
        messages += turn(answer)
    return seen


def structured(question: str) -> Any:
    answer = client.messages.parse(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": question}],
        output_format=Weather,
    )
    return answer.parsed_output


def named(question: str) -> Any:
    return client.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": question}],
        extra_body={"session_id": "named-by-the-body"},
    ).content


def count(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    return client.messages.count_tokens(model=MODEL, messages=messages)


def turn(answer: Any) -> list[Any]:
    """What the loop appends: the answer, and the tools' results if it wants any."""
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": get_weather(**block.input)}
        for block in answer.content
        if block.type == "tool_use"
    ]
    more = [{"role": "user", "content": results}] if results else []
    content = [block.to_dict() for block in answer.content]
    return [{"role": "assistant", "content": content}, *more]


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured, named, count)
