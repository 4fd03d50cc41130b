"""langgraph: the prebuilt agent, whole and streamed, and a second turn in its thread."""

from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from scenarios import MODEL, Weather, get_weather, play


def tools(question: str) -> Any:
    agent = create_react_agent(ChatOpenAI(model=MODEL), [get_weather], prompt="Be brief.")
    return seen(agent.invoke({"messages": [("user", question)]})["messages"])


def tools_streamed(question: str) -> Any:
    agent = create_react_agent(ChatOpenAI(model=MODEL, streaming=True), [get_weather])
    pieces = [
        chunk.content
        for chunk, _ in agent.stream({"messages": [("user", question)]}, stream_mode="messages")
    ]
    return ["".join(map(str, pieces)), len([piece for piece in pieces if piece])]


def thread(question: str) -> Any:
    agent = create_react_agent(ChatOpenAI(model=MODEL), [get_weather], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t1"}}
    agent.invoke({"messages": [("user", question)]}, config)
    return seen(agent.invoke({"messages": [("user", "And tomorrow?")]}, config)["messages"])


def structured(question: str) -> Any:
    agent = create_react_agent(ChatOpenAI(model=MODEL), [get_weather], response_format=Weather)
    return agent.invoke({"messages": [("user", question)]})["structured_response"]


def seen(messages: list[Any]) -> Any:
    return [[message.type, message.content] for message in messages]


if __name__ == "__main__":
    play(tools, tools_streamed, thread, structured)
