"""openai-agents: the responses dialect by default; `chat` as the first argument sets the other."""

import sys
from typing import Any

from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled
from scenarios import MODEL, Weather, get_weather, play

set_tracing_disabled(True)
if sys.argv[1:] == ["chat"]:
    set_default_openai_api("chat_completions")
weather = function_tool(get_weather)


async def plain(question: str) -> Any:
    agent = Agent(name="guide", instructions="Be brief.", model=MODEL)
    return (await Runner.run(agent, question)).final_output


async def streamed(question: str) -> Any:
    return await read(Agent(name="guide", model=MODEL), question)


async def tools(question: str) -> Any:
    result = await Runner.run(Agent(name="guide", model=MODEL, tools=[weather]), question)
    return [result.final_output, [item.type for item in result.new_items]]


async def tools_streamed(question: str) -> Any:
    return await read(Agent(name="guide", model=MODEL, tools=[weather]), question)


async def structured(question: str) -> Any:
    agent = Agent(name="guide", model=MODEL, output_type=Weather)
    return (await Runner.run(agent, question)).final_output


async def handoff(question: str) -> Any:
    local = Agent(name="local", instructions="You live there.", model=MODEL, tools=[weather])
    first = Agent(name="desk", instructions="You pass on.", model=MODEL, handoffs=[local])
    result = await Runner.run(first, question)
    return [result.final_output, result.last_agent.name]


async def read(agent: Agent[Any], question: str) -> Any:
    result = Runner.run_streamed(agent, question)
    pieces = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return [result.final_output, "".join(pieces), len(pieces)]


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured, handoff)
