"""llama-index in the responses dialect: what it does not set, it sends as null."""

from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAIResponses
from scenarios import MODEL, get_weather, play


def plain(question: str) -> Any:
    answer = OpenAIResponses(model=MODEL).chat([ChatMessage(role="user", content=question)])
    return answer.message.content


def streamed(question: str) -> Any:
    chunks = OpenAIResponses(model=MODEL).stream_chat([ChatMessage(role="user", content=question)])
    pieces = [chunk.delta for chunk in chunks if chunk.delta]
    return ["".join(pieces), len(pieces)]


async def tools(question: str) -> Any:
    model = OpenAIResponses(model=MODEL)
    return str(await FunctionAgent(tools=[get_weather], llm=model, streaming=False).run(question))


async def tools_streamed(question: str) -> Any:
    model = OpenAIResponses(model=MODEL)
    return str(await FunctionAgent(tools=[get_weather], llm=model).run(question))


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed)
