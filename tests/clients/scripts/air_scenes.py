"""Scenes for AIR's cases: one client, what its user says, and what its tools bring.

    python air_scenes.py CLIENT SCENE      (SCENE is JSON; see tests/clients/record_air.py)

`says` are the user's messages, one after the other in one conversation; `results` are what tools
bring, in order (one that begins with "!" is raised); `again` sends the last request once more.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Callable
from typing import Any

MODEL = "gpt-4o-mini"
SCENE: dict[str, Any] = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
LIMITS: dict[str, Any] = SCENE.get("limits", {})
waiting = list(SCENE.get("results", []))


class Failed(Exception):
    """What a tool raises."""


def bring() -> str:
    result = waiting.pop(0)
    if result.startswith("!"):
        raise Failed(result[1:])
    return str(result)


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: Name of the city.
    """
    return bring()


def search_orders(query: str, limit: int = 5) -> str:
    """Search the customer's orders.

    Args:
        query: Words to look for.
        limit: Most orders to return.
    """
    return bring()


def delete_file(path: str) -> str:
    """Delete a file.

    Args:
        path: Where it is.
    """
    return bring()


TOOLS: list[Callable[..., str]] = [get_weather, search_orders, delete_file]
_TYPES = {str: "string", int: "integer"}


def schema(tool: Callable[..., str]) -> dict[str, Any]:
    """A tool's parameters, as a person writes them."""
    parameters = inspect.signature(tool).parameters.values()
    return {
        "type": "object",
        "properties": {p.name: {"type": _TYPES[p.annotation]} for p in parameters},
        "required": [p.name for p in parameters if p.default is p.empty],
        "additionalProperties": False,
    }


def describe(tool: Callable[..., str]) -> dict[str, Any]:
    doc = str(tool.__doc__).splitlines()[0]
    return {"name": tool.__name__, "description": doc, "parameters": schema(tool)}


def run(name: str, arguments: str) -> str:
    """A hand-written loop's way of running a tool."""
    try:
        tool = {tool.__name__: tool for tool in TOOLS}[name]
        return tool(**json.loads(arguments))
    except Exception as error:
        return f"Error: {error}"


def openai() -> None:
    from openai import OpenAI

    client = OpenAI()
    offered: Any = [{"type": "function", "function": describe(tool)} for tool in TOOLS]
    messages: list[Any] = [{"role": "system", "content": "You help customers."}]

    def ask() -> Any:
        extra = {} if SCENE.get("no_tools") else {"tools": offered}
        return client.chat.completions.create(model=MODEL, messages=messages, **extra, **LIMITS)

    for said in SCENE["says"]:
        messages.append({"role": "user", "content": said})
        while True:
            message = ask().choices[0].message
            if not message.tool_calls:
                for _ in range(SCENE.get("again", 0)):
                    message = ask().choices[0].message
                messages.append(message.to_dict())
                break
            messages.append(message.to_dict())
            for call in message.tool_calls:
                content = run(call.function.name, call.function.arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})


def responses() -> None:
    from openai import OpenAI

    client = OpenAI()
    offered: Any = [{"type": "function", "strict": False, **describe(tool)} for tool in TOOLS]
    items: list[Any] = []
    for said in SCENE["says"]:
        items.append({"role": "user", "content": said})
        while True:
            answer = client.responses.create(model=MODEL, input=items, tools=offered, **LIMITS)
            items += [item.to_dict() for item in answer.output]
            calls = [item for item in answer.output if item.type == "function_call"]
            for call in calls:
                output = run(call.name, call.arguments)
                items.append(
                    {"type": "function_call_output", "call_id": call.call_id, "output": output}
                )
            if not calls:
                break


def anthropic() -> None:
    from anthropic import Anthropic

    client = Anthropic()
    offered: Any = [
        {"name": t.__name__, "description": describe(t)["description"], "input_schema": schema(t)}
        for t in TOOLS
    ]
    messages: list[Any] = []
    for said in SCENE["says"]:
        messages.append({"role": "user", "content": [{"type": "text", "text": said}]})
        while True:
            answer = client.messages.create(
                model="claude-sonnet-4-6",
                **{"max_tokens": 200, **LIMITS},
                messages=messages,
                tools=offered,
            )
            messages.append(
                {"role": "assistant", "content": [block.to_dict() for block in answer.content]}
            )
            calls = [block for block in answer.content if block.type == "tool_use"]
            if not calls:
                break
            messages.append({"role": "user", "content": [tool_result(call) for call in calls]})


def tool_result(call: Any) -> dict[str, Any]:
    tools = {tool.__name__: tool for tool in TOOLS}
    result = {"type": "tool_result", "tool_use_id": call.id}
    try:
        return {**result, "content": tools[call.name](**call.input)}
    except Exception as error:
        return {**result, "content": str(error), "is_error": True}


def langgraph() -> None:
    from langchain_openai import ChatOpenAI
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.prebuilt import create_react_agent

    more: dict[str, Any] = {}
    if SCENE.get("schema"):
        from scenarios import Weather

        more["response_format"] = Weather
    model = ChatOpenAI(model=MODEL, **LIMITS)
    agent = create_react_agent(model, TOOLS, checkpointer=InMemorySaver(), **more)
    config: Any = {"configurable": {"thread_id": "t1"}}
    for said in SCENE["says"]:
        agent.invoke({"messages": [("user", said)]}, config)


def langchain() -> None:
    from langchain_openai import ChatOpenAI
    from scenarios import Weather

    model = ChatOpenAI(model=MODEL, **LIMITS).with_structured_output(Weather, method="json_schema")
    for said in SCENE["says"]:
        model.invoke(said)


def pydantic_ai() -> None:
    from pydantic_ai import Agent, ModelRetry, PromptedOutput
    from scenarios import Weather

    def weather(city: str) -> str:
        """The weather in a city."""
        try:
            return bring()
        except Failed as error:
            raise ModelRetry(str(error)) from error

    weather.__name__ = "get_weather"
    name = f"openai-chat:{MODEL}"
    if SCENE.get("schema"):
        agent: Any = Agent(name, output_type=PromptedOutput(Weather), retries=2)
    else:
        agent = Agent(name, tools=[weather, search_orders], retries=2)
    history: Any = None
    for said in SCENE["says"]:
        history = agent.run_sync(said, message_history=history).all_messages()


def agents() -> None:
    from agents import Agent, Runner, function_tool, set_default_openai_api, set_tracing_disabled

    set_tracing_disabled(True)
    set_default_openai_api("chat_completions")
    tools: Any = [function_tool(tool) for tool in TOOLS]
    agent = Agent(name="guide", instructions="You help.", model=MODEL, tools=tools)

    async def talk() -> None:
        items: Any = []
        for said in SCENE["says"]:
            result = await Runner.run(agent, [*items, {"role": "user", "content": said}])
            items = result.to_input_list()

    asyncio.run(talk())


def smolagents() -> None:
    from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

    kind = CodeAgent if SCENE.get("code") else ToolCallingAgent
    model = OpenAIModel(model_id=MODEL)
    agent: Any = kind(
        tools=[tool(get_weather), tool(search_orders)], model=model, max_steps=4, verbosity_level=0
    )
    for number, said in enumerate(SCENE["says"]):
        agent.run(said, reset=not number)


def autogen() -> None:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    async def talk() -> None:
        client = OpenAIChatCompletionClient(model=MODEL)
        agent = AssistantAgent(
            "guide", model_client=client, tools=[*TOOLS], reflect_on_tool_use=True
        )
        for said in SCENE["says"]:
            await agent.run(task=said)

    asyncio.run(talk())


def instructor() -> None:
    import instructor as library
    from openai import OpenAI
    from scenarios import Weather

    client = library.from_openai(OpenAI(), mode=library.Mode.JSON)
    for said in SCENE["says"]:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": said}],
            response_model=Weather,
            max_retries=2,
        )


if __name__ == "__main__":
    os.environ.setdefault("OPENAI_LOG", "")
    try:
        globals()[sys.argv[1]]()
    except Exception as error:  # a client that gives up is what some scenes are about
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.stdout.write(json.dumps({"unused": waiting}) + "\n")
