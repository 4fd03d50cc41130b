"""Sessions of a world: a question, the agent's answer, and from some users a thumb.

The agent and the user share nothing but the session's name in the base URL. `measure` asks one
policy past the gateway; what it finds reaches the onlooker alone.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx2

from examples.arena.agents import Agent, Reply
from examples.arena.results import Point
from examples.arena.world import Question, World
from ratchet.demo.questions import Split
from ratchet.demo.traffic import session_url
from ratchet.demo.users import Crowd, Thumb

CONCURRENCY = 8
WINDOW = 100  # sessions that a point of the curve looks back on
POINT_SESSIONS = 25
TIMEOUT_SECONDS = 60.0
MODEL = "policy"  # what the agent calls the policy; any alias of the gateway


@dataclass(slots=True)
class Counts:
    """What the traffic came to so far."""

    thumbs: int = 0
    failed_thumbs: int = 0
    failed_sessions: int = 0  # a request failed or never ended
    raised: Counter[str] = field(default_factory=Counter)  # by the agent, over the model's words


class Traffic:
    """A world's users before a gateway, whose root is `url`."""

    def __init__(self, world: World, agent: Agent, url: str, seed: int) -> None:
        self.counts = Counts()
        self.curve: list[Point] = []
        self._world = world
        self._agent = agent
        self._root = f"{url.rstrip('/')}/a/{world.name}"
        self._feedback_url = f"{url.rstrip('/')}/v1/feedback"
        self._questions = world.questions(Split.TRAFFIC, seed)
        self._crowd = Crowd(random.Random(f"crowd:{seed}"), world.habits)
        self._right: deque[bool] = deque(maxlen=WINDOW)

    @property
    def sessions(self) -> int:
        """Sessions that somebody got an answer from."""
        return self._crowd.sessions

    async def run(self, count: int) -> None:
        """`count` sessions, a few at a time."""
        asked = itertools.islice(self._questions, count)
        async with httpx2.AsyncClient(timeout=TIMEOUT_SECONDS) as users:
            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENCY):
                    group.create_task(self._keep_asking(asked, users))

    async def _keep_asking(self, asked: Iterator[Question], users: httpx2.AsyncClient) -> None:
        for question in asked:
            session = uuid.uuid4().hex
            url = session_url(self._root, session)
            reply = await self._agent.ask(question.text, base_url=url, model=MODEL)
            if reply.is_transport:
                self.counts.failed_sessions += 1
                continue
            right = judge(self._world, question, reply)
            if reply.text is None:
                self.counts.raised[reply.error.split(":")[0]] += 1
            self._right.append(right)
            thumb = self._crowd.react(right)
            if self.sessions % POINT_SESSIONS == 0:
                share = sum(self._right) / len(self._right)
                self.curve.append(Point(self.sessions, share))
            if thumb is not None:
                await self._post(users, session, thumb)

    async def _post(self, users: httpx2.AsyncClient, session: str, thumb: Thumb) -> None:
        body = {"session_id": session, "thumb": thumb.value}
        try:
            response = await users.post(self._feedback_url, json=body)
            response.raise_for_status()
        except httpx2.HTTPError:
            self.counts.failed_thumbs += 1
            return
        self.counts.thumbs += 1


def judge(world: World, question: Question, reply: Reply) -> bool:
    """What a user makes of a reply; an agent that raised has not answered."""
    return reply.text is not None and world.is_right(question, reply.text)


async def measure(world: World, agent: Agent, url: str, model: str, count: int, seed: int) -> float:
    """Share of the same held-out questions answered rightly by one model of the engine at `url`."""
    asked = itertools.islice(world.questions(Split.HELD_OUT, seed), count)
    verdicts: list[bool] = []

    async def work() -> None:
        for question in asked:
            reply = await agent.ask(question.text, base_url=f"{url.rstrip('/')}/v1", model=model)
            if reply.is_transport:
                raise RuntimeError(f"measuring {model} met a failed request: {reply.error}")
            verdicts.append(judge(world, question, reply))

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())
    return sum(verdicts) / len(verdicts)
