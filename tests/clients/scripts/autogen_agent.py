"""autogen-agentchat: one assistant."""

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from scenarios import MODEL, Weather, get_weather, play


def assistant(**more: Any) -> AssistantAgent:
    client = OpenAIChatCompletionClient(model=MODEL)
    return AssistantAgent("guide", model_client=client, **more)


async def plain(question: str) -> Any:
    return seen(await assistant().run(task=question))


async def streamed(question: str) -> Any:
    pieces = [
        event.content
        async for event in assistant(model_client_stream=True).run_stream(task=question)
        if getattr(event, "type", "") == "ModelClientStreamingChunkEvent"
    ]
    return ["".join(pieces), len(pieces)]


async def tools(question: str) -> Any:
    agent = assistant(tools=[get_weather], reflect_on_tool_use=True)
    return seen(await agent.run(task=question))


async def tools_streamed(question: str) -> Any:
    agent = assistant(tools=[get_weather], reflect_on_tool_use=True, model_client_stream=True)
    return seen(await agent.run(task=question))


async def structured(question: str) -> Any:
    return seen(await assistant(output_content_type=Weather).run(task=question))


def seen(result: Any) -> Any:
    return [[message.type, message.source, message.to_text()] for message in result.messages]


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured)
