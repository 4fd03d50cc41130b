"""autogen-agentchat: a group chat of three agents, each with its own name and system prompt."""

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient
from scenarios import MODEL, play

ROLES = {
    "planner": "You plan the trip.",
    "guide": "You know the city.",
    "critic": "You find what is wrong with the plan.",
}


async def team(question: str) -> Any:
    return await group_chat(question, is_streamed=False)


async def team_streamed(question: str) -> Any:
    return await group_chat(question, is_streamed=True)


async def group_chat(question: str, *, is_streamed: bool) -> Any:
    client = OpenAIChatCompletionClient(model=MODEL)
    agents = [
        AssistantAgent(
            name,
            model_client=client,
            description=role,
            system_message=role,
            model_client_stream=is_streamed,
        )
        for name, role in ROLES.items()
    ]
    chat = RoundRobinGroupChat([*agents], termination_condition=MaxMessageTermination(7))
    result = await chat.run(task=question)
    return [[message.source, message.to_text()] for message in result.messages]


if __name__ == "__main__":
    play(team, team_streamed)
