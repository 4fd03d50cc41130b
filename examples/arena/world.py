"""A world: questions, an agent that answers them, and a model that was badly brought up.

To make your own, write a folder with `agent.py` (any framework) and `world.py` that ends in
`WORLD = YourWorld()`; docs/examples.md leads through it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ratchet.demo.questions import Split
from ratchet.demo.users import Habits

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Question:
    """What a user asks, and what the user alone knows: the answer, in the world's own notation."""

    text: str
    answer: str
    split: Split


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a lesson; an assistant's is written as the model should write it."""

    role: str  # user, tool or assistant
    text: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """A demonstrated session under the system message and the tools that the framework sends."""

    messages: tuple[Said, ...]
    system: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()  # as in a chat completion's `tools`


class World(Protocol):
    """What `examples.run` needs to know. Everything it draws comes from the seed it is given."""

    name: str  # of the folder, the agent and the base model
    title: str  # of the picture
    framework: str  # and its version, for the table
    environment: str  # which of tools/client_environments.py the agent runs in
    habits: Habits  # of those who ask
    rounds: int  # policy versions to learn, where the command does not say
    sessions: int  # of traffic before each round
    steps: int  # of the model's upbringing, 32 lessons each
    words: Sequence[str]  # that are one token wherever they stand (ratchet/demo/model.py)
    settings: Mapping[str, Mapping[str, Any]]  # over those of arena/settings.py

    def questions(self, split: Split, seed: int) -> Iterator[Question]:
        """Endless questions of one split; no question is in both."""

    def is_right(self, question: Question, text: str) -> bool:
        """What the user sees at once: whether the agent's last words answer the question."""

    def lessons(self, seed: int) -> Iterator[Lesson]:
        """Endless demonstrations on traffic questions, many of them bad."""


def agent_script(world: World) -> Path:
    """The world's agent: a script with `async def answer(question, base_url, model) -> str`."""
    return ROOT / world.name / "agent.py"


def world_names() -> list[str]:
    """The folders that hold a world and its agent."""
    found = (script.parent for script in ROOT.glob("*/agent.py"))
    return sorted(folder.name for folder in found if (folder / "world.py").is_file())


def find_world(name: str) -> World:
    """The world of that folder."""
    world: World = importlib.import_module(f"examples.{name}.world").WORLD
    return world
