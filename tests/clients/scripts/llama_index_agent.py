"""llama-index: the model by itself, and a function agent. It reads OPENAI_API_BASE only."""

from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from scenarios import MODEL, Weather, get_weather, play


def plain(question: str) -> Any:
    answer = OpenAI(model=MODEL).chat([ChatMessage(role="user", content=question)])
    return answer.message.content


def streamed(question: str) -> Any:
    chunks = OpenAI(model=MODEL).stream_chat([ChatMessage(role="user", content=question)])
    pieces = [chunk.delta for chunk in chunks if chunk.delta]
    return ["".join(pieces), len(pieces)]


async def tools(question: str) -> Any:
    agent = FunctionAgent(tools=[get_weather], llm=OpenAI(model=MODEL), streaming=False)
    return str(await agent.run(question))


async def tools_streamed(question: str) -> Any:
    agent = FunctionAgent(tools=[get_weather], llm=OpenAI(model=MODEL))
    return str(await agent.run(question))


def structured(question: str) -> Any:
    model = OpenAI(model=MODEL).as_structured_llm(Weather)
    return model.chat([ChatMessage(role="user", content=question)]).message.content


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured)
