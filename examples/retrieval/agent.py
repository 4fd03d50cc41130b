"""A researcher in the OpenAI Agents SDK, as anybody would write one: it searches, and answers.

    OPENAI_BASE_URL=http://127.0.0.1:8080/a/retrieval/t/run-1/v1 OPENAI_API_KEY=none \
        python examples/retrieval/agent.py "Where was Ada Moor born?"

It speaks the responses dialect, which is the SDK's default, and knows an OpenAI base URL and its
archive, no more.
"""

import asyncio
import os
import sys

import httpx
from agents import (
    Agent,
    AgentsException,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from archive import Archive
from openai import AsyncOpenAI

INSTRUCTIONS = "Answer questions from the archive."
MAX_TURNS = 4

set_tracing_disabled(True)
connections = httpx.AsyncClient(timeout=120)  # shared: a TLS context for each session is slow
archive = Archive()


# Not strict: the figures were measured so. An engine holds strict calls to their schema by a
# grammar, and of these only what it left to the model is learned from (docs/inference.md).
@function_tool(strict_mode=False)
def search(query: str) -> str:
    """Finds the two documents of the archive that fit the words best."""
    return archive.search(query)


async def answer(question: str, base_url: str, model: str) -> str:
    """The agent's last words; an apology where it got nowhere."""
    client = AsyncOpenAI(base_url=base_url, max_retries=0, http_client=connections)
    researcher = Agent(
        name="researcher",
        instructions=INSTRUCTIONS,
        model=OpenAIResponsesModel(model=model, openai_client=client),
        model_settings=ModelSettings(max_tokens=64),
        tools=[search],
    )
    try:
        result = await Runner.run(researcher, question, max_turns=MAX_TURNS)
    except AgentsException:  # too many turns, or a call of a tool that there is not
        return "Sorry, I did not find out."
    return str(result.final_output)


if __name__ == "__main__":
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    name = os.environ.get("MODEL", "policy")
    sys.stdout.write(asyncio.run(answer(" ".join(sys.argv[1:]), url, name)) + "\n")
