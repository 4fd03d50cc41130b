"""anthropic-python: what an application sees of an upstream that refuses."""

from typing import Any

from anthropic import Anthropic, APIStatusError
from anthropic_messages import MODEL
from scenarios import play

client = Anthropic(max_retries=0)


def refused_400(question: str) -> Any:
    return refusal(question, 400)


def refused_404(question: str) -> Any:
    return refusal(question, 404)


def refused_429(question: str) -> Any:
    return refusal(question, 429)


def refused_500(question: str) -> Any:
    return refusal(question, 500)


def refused_429_streamed(question: str) -> Any:
    return refusal(question, 429, stream=True)


def refusal(question: str, status: int, **more: Any) -> Any:
    words: Any = [{"role": "user", "content": f"{question} Fail with {status}, please."}]
    try:
        client.messages.create(model=MODEL, max_tokens=99, messages=words, **more)
    except APIStatusError as error:
        retry = error.response.headers.get("retry-after")
        said: Any = error.body
        return [type(error).__name__, error.status_code, said["type"], said["error"], retry]
    return "no error"


if __name__ == "__main__":
    play(refused_400, refused_404, refused_429, refused_500, refused_429_streamed)
