"""openai-python: what an application sees of an upstream that refuses, in either dialect.

`chat` or `responses` as the first argument.
"""

import sys
from collections.abc import Callable
from typing import Any

from openai import APIStatusError, OpenAI
from scenarios import MODEL, play

client = OpenAI(max_retries=0)
dialect = sys.argv[1]


def refused_400(question: str) -> Any:
    return refusal(question, 400)


def refused_404(question: str) -> Any:
    return refusal(question, 404)


def refused_422(question: str) -> Any:
    return refusal(question, 422)


def refused_429(question: str) -> Any:
    return refusal(question, 429)


def refused_500(question: str) -> Any:
    return refusal(question, 500)


def refused_503(question: str) -> Any:
    return refusal(question, 503)


def refused_429_streamed(question: str) -> Any:
    return refusal(question, 429, stream=True)


def refusal(question: str, status: int, **more: Any) -> Any:
    words = f"{question} Fail with {status}, please."
    asks: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": words}], **more
        ),
        "responses": lambda: client.responses.create(model=MODEL, input=words, **more),
    }
    try:
        asks[dialect]()
    except APIStatusError as error:
        retry = error.response.headers.get("retry-after")
        kind = type(error).__name__
        return [kind, error.status_code, error.code, error.type, error.param, error.body, retry]
    return "no error"


if __name__ == "__main__":
    play(
        refused_400,
        refused_404,
        refused_422,
        refused_429,
        refused_500,
        refused_503,
        refused_429_streamed,
    )
