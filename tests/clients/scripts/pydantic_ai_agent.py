"""pydantic-ai: `openai:` is the responses dialect; `chat` as the first argument asks in chat."""

import sys
from typing import Any

from pydantic_ai import Agent
from scenarios import MODEL, Weather, get_weather, play

NAME = f"openai-chat:{MODEL}" if sys.argv[1:] == ["chat"] else f"openai:{MODEL}"


def plain(question: str) -> Any:
    result = Agent(NAME, instructions="Be brief.").run_sync(question)
    return [result.output, result.usage.output_tokens > 0]


async def streamed(question: str) -> Any:
    return await read(Agent(NAME), question)


def tools(question: str) -> Any:
    return Agent(NAME, tools=[get_weather]).run_sync(question).output


async def tools_streamed(question: str) -> Any:
    return await read(Agent(NAME, tools=[get_weather]), question)


def structured(question: str) -> Any:
    return Agent(NAME, output_type=Weather).run_sync(question).output


def second_turn(question: str) -> Any:
    agent = Agent(NAME, tools=[get_weather])
    first = agent.run_sync(question)
    return agent.run_sync("And tomorrow?", message_history=first.all_messages()).output


async def read(agent: Agent[Any, Any], question: str) -> Any:
    async with agent.run_stream(question) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    return ["".join(pieces), len(pieces)]


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured, second_turn)
