"""langchain-openai on Azure: it sends `model: null`, the deployment is in the path."""

from typing import Any

from langchain_chat import loop
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from scenarios import MODEL, Weather, get_weather, play

model = AzureChatOpenAI(azure_deployment=MODEL, api_version="2024-10-21")


def plain(question: str) -> Any:
    return model.invoke(question).content


def streamed(question: str) -> Any:
    pieces = [str(chunk.content) for chunk in model.stream(question)]
    return ["".join(pieces), len([piece for piece in pieces if piece])]


def tools(question: str) -> Any:
    return loop(question, model.bind_tools([tool(get_weather)]).invoke)


def structured(question: str) -> Any:
    return model.with_structured_output(Weather).invoke(question)


if __name__ == "__main__":
    play(plain, streamed, tools, structured)
