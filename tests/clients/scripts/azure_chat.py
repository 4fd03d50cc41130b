"""AzureOpenAI: the deployment's name is in the path."""

from typing import Any

from openai import AzureOpenAI
from openai_chat import TOOLS, collect, result
from scenarios import MODEL, Weather, play

client = AzureOpenAI(api_version="2024-10-21")


def plain(question: str) -> Any:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}]
    )
    return [answer.choices[0].message, answer.choices[0].finish_reason, answer.usage]


def streamed(question: str) -> Any:
    return collect(
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], stream=True
        )
    )


def tools(question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        message = (
            client.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
            .choices[0]
            .message
        )
        seen.append(message)
        messages.append(message.to_dict())
        messages += [result(call.id, call.function) for call in message.tool_calls or []]
    return seen


def structured(question: str) -> Any:
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": question}], response_format=Weather
    )
    return answer.choices[0].message.parsed


if __name__ == "__main__":
    play(plain, streamed, tools, structured)
