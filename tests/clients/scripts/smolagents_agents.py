"""smolagents: the agent that calls tools and the one that writes code."""

from typing import Any

from scenarios import MODEL, get_weather, play
from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

weather = tool(get_weather)


def tools(question: str) -> Any:
    return ToolCallingAgent(**parts()).run(question)


def tools_streamed(question: str) -> Any:
    return ToolCallingAgent(stream_outputs=True, **parts()).run(question)


def code(question: str) -> Any:
    return CodeAgent(**parts()).run(question)


def code_streamed(question: str) -> Any:
    return CodeAgent(stream_outputs=True, **parts()).run(question)


def parts() -> dict[str, Any]:
    model = OpenAIModel(model_id=MODEL)
    return {"tools": [weather], "model": model, "max_steps": 3, "verbosity_level": 0}


if __name__ == "__main__":
    play(tools, tools_streamed, code, code_streamed)
