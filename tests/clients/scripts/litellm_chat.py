"""litellm as a library."""

from typing import Any

import litellm
from openai_chat import TOOLS, result
from scenarios import Weather, play

MODEL = "openai/gpt-4o-mini"


def plain(question: str) -> Any:
    answer: Any = litellm.completion(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        temperature=0.1,
        metadata={"session_id": "never on the wire"},
    )
    return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage]


def streamed(question: str) -> Any:
    stream: Any = litellm.completion(
        model=MODEL, messages=[{"role": "user", "content": question}], stream=True
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream]
    return ["".join(piece or "" for piece in pieces), len([piece for piece in pieces if piece])]


def tools(question: str) -> Any:
    return loop(question, lambda messages: whole(messages))


def tools_streamed(question: str) -> Any:
    def ask(messages: list[Any]) -> Any:
        chunks = list(whole(messages, stream=True))
        return litellm.stream_chunk_builder(chunks, messages=messages)

    return loop(question, ask)


def structured(question: str) -> Any:
    answer: Any = litellm.completion(
        model=MODEL, messages=[{"role": "user", "content": question}], response_format=Weather
    )
    return answer.choices[0].message.content


def whole(messages: list[Any], **more: Any) -> Any:
    return litellm.completion(model=MODEL, messages=messages, tools=TOOLS, **more)


def loop(question: str, ask: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        choice = ask(messages).choices[0]
        calls = choice.message.tool_calls or []
        seen.append([choice.message.content, choice.finish_reason, calls])
        messages.append(choice.message)
        messages += [result(call.id, call.function) for call in calls]
    return seen


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured)
