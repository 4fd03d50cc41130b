"""crewai: one agent with a tool, whole and streamed, and structured output."""

from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from scenarios import MODEL, Weather, get_weather, play


@tool("get_weather")
def weather(city: str) -> str:
    """The weather in a city."""
    return get_weather(city)


def plain(question: str) -> Any:
    return crew(question, tools=[])


def streamed(question: str) -> Any:
    return crew(question, tools=[], stream=True)


def tools(question: str) -> Any:
    return crew(question, tools=[weather])


def tools_streamed(question: str) -> Any:
    return crew(question, tools=[weather], stream=True)


def structured(question: str) -> Any:
    return crew(question, tools=[], output_pydantic=Weather)


def crew(question: str, *, tools: list[Any], stream: bool = False, **more: Any) -> Any:
    guide = Agent(
        role="guide",
        goal="Answer.",
        backstory="You know the city.",
        llm=LLM(model=MODEL, stream=stream),
        tools=tools,
    )
    task = Task(description=question, expected_output="One sentence.", agent=guide, **more)
    return str(Crew(agents=[guide], tasks=[task]).kickoff())


if __name__ == "__main__":
    play(plain, streamed, tools, tools_streamed, structured)
