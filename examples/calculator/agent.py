"""A calculator agent in AutoGen, as anybody would write it: it knows an OpenAI base URL, no more.

    OPENAI_BASE_URL=http://127.0.0.1:8080/a/calculator/t/run-1/v1 OPENAI_API_KEY=none \
        python examples/calculator/agent.py "What is 12 plus 30?"
"""

import asyncio
import os
import sys

import httpx
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient

SYSTEM = "You answer number questions with your calculator."

connections = httpx.AsyncClient(timeout=120)  # shared: a TLS context for each session is slow


def calculator(a: int, b: int, operation: str) -> int:
    """Works out one operation on two whole numbers."""
    if operation == "add":
        return a + b
    if operation == "subtract":
        return a - b
    if operation == "multiply":
        return a * b
    if operation == "divide" and b and a % b == 0:
        return a // b
    raise ValueError(f"cannot {operation} {a} and {b}")


async def answer(question: str, base_url: str, model: str) -> str:
    """One question, answered by one assistant with at most three rounds of tool calls."""
    client = OpenAIChatCompletionClient(
        model=model,
        base_url=base_url,
        max_tokens=64,
        max_retries=0,
        http_client=connections,
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": False,
            "structured_output": False,
            "family": "unknown",
        },
    )
    assistant = AssistantAgent(
        "calculator",
        model_client=client,
        tools=[calculator],
        system_message=SYSTEM,
        max_tool_iterations=3,
    )
    result = await assistant.run(task=question)
    return result.messages[-1].to_text()


if __name__ == "__main__":
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    name = os.environ.get("MODEL", "policy")
    sys.stdout.write(asyncio.run(answer(" ".join(sys.argv[1:]), url, name)) + "\n")
