"""openai-python, what is neither chat nor responses."""

from typing import Any

from openai import OpenAI
from scenarios import MODEL, play

client = OpenAI()


def completion(question: str) -> Any:
    answer = client.completions.create(model=MODEL, prompt=question, max_tokens=3)
    return [answer.choices[0].text, answer.choices[0].finish_reason, answer.usage]


def embedding(question: str) -> Any:
    answer = client.embeddings.create(model="text-embedding-3-small", input=[question, "more"])
    return [[entry.embedding for entry in answer.data], answer.usage]


def models(_: str) -> Any:
    return "gpt-4o-mini" in [model.id for model in client.models.list()]


if __name__ == "__main__":
    play(completion, embedding, models)
