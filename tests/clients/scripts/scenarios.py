"""What all client scripts share: the questions, the tool, and how results are printed.

A script asks each of its scenarios' questions through one real client, which
finds its address and key where it always does: in the environment. It prints
one JSON object, scenario -> what the application saw. `Scenario x:` in a
question tells the harness which calls belong together.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

MODEL = "gpt-4o-mini"
TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Weather(BaseModel):
    """What structured output is asked for."""

    city: str
    degrees: int


def question(scenario: str) -> str:
    """The user's words in a scenario."""
    return f"Scenario {scenario}: what is the weather in Paris today?"


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: Name of the city.
    """
    return f"It is sunny in {city}, 21 degrees."


def play(*scenarios: Callable[[str], Any]) -> None:
    """Run each with its question, one after the other, and print what they returned.

    An exception is a result too: the application sees its type and status.
    """
    seen = {}
    with asyncio.Runner() as runner:  # one loop for all: clients keep their connections in it
        for scenario in scenarios:
            name = scenario.__name__.replace("_", "-")
            try:
                found = scenario(question(name))
                seen[name] = runner.run(found) if inspect.iscoroutine(found) else found
            except Exception as error:
                status = getattr(error, "status_code", None)
                seen[name] = {"error": type(error).__name__, "status": status, "text": str(error)}
    sys.stdout.write("\n" + json.dumps(seen, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
