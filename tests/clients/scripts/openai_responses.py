"""openai-python, responses."""

import json
from typing import Any

from openai import OpenAI
from scenarios import MODEL, TOOL, Weather, get_weather, play

TOOLS: list[Any] = [{"type": "function", "strict": True, **TOOL}]
client = OpenAI()


def plain(question: str) -> Any:
    answer = client.responses.create(
        model=MODEL, input=question, instructions="Be brief.", temperature=0.3
    )
    return [answer.output_text, answer.status, answer.usage, answer.model]


def streamed(question: str) -> Any:
    return collect(client.responses.create(model=MODEL, input=question, stream=True))


def tools(question: str) -> Any:
    given: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        answer = client.responses.create(model=MODEL, input=given, tools=TOOLS)
        seen.append([answer.output_text, *calls_of(answer)])
        given += [item.to_dict() for item in answer.output]
        given += [result(item) for item in answer.output if item.type == "function_call"]
    return seen


def tools_streamed(question: str) -> Any:
    given: list[Any] = [{"role": "user", "content": question}]
    seen = []
    for _ in range(2):
        with client.responses.stream(model=MODEL, input=given, tools=TOOLS) as stream:
            found = collect(stream)
            answer = stream.get_final_response()
        seen.append([found, *calls_of(answer)])
        given += [item.to_dict() for item in answer.output]
        given += [result(item) for item in answer.output if item.type == "function_call"]
    return seen


def structured(question: str) -> Any:
    return client.responses.parse(model=MODEL, input=question, text_format=Weather).output_parsed


def named(question: str) -> Any:
    return client.responses.create(
        model=MODEL, input=question, extra_body={"session_id": "named-by-the-body"}
    ).output_text


def result(item: Any) -> dict[str, Any]:
    output = get_weather(**json.loads(item.arguments))
    return {"type": "function_call_output", "call_id": item.call_id, "output": output}


def calls_of(answer: Any) -> list[Any]:
    calls = [item for item in answer.output if item.type == "function_call"]
    return [[item.name, item.arguments] for item in calls]


def collect(stream: Any) -> Any:
    """A stream as an application reads it."""
    kinds: list[str] = []
    text, arguments, numbers = "", "", []
    for event in stream:
        numbers.append(event.sequence_number)
        if not kinds or kinds[-1] != event.type:
            kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
    return {
        "kinds": kinds,
        "text": text,
        "arguments": arguments,
        "has_no_gap": numbers == list(range(len(numbers))),
    }


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured, named)
