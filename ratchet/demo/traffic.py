"""Traffic: many sessions at once, each a question, an answer and, seldom, a thumb.

The agent gets an OpenAI client whose base URL names the session; the user posts the thumb. The
two share nothing else. `evaluate` asks the inference server directly, past the gateway.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import httpx2
import openai

from ratchet.demo.agent import Answer, Failure, answer
from ratchet.demo.questions import Question, Split, is_right, stream_questions
from ratchet.demo.users import Crowd, Habits, Thumb

WINDOW = 300
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Session:
    """One finished session, as the onlooker of the demo sees it."""

    id: str
    number: int
    question: Question
    answer: Answer
    is_right: bool
    thumb: Thumb | None
    finished_at_seconds: float


@dataclass(frozen=True, slots=True)
class Counts:
    """A snapshot of the counters; accuracy and reward look back over the last sessions.

    `accuracy` is what an onlooker knows; `reward` is the mean of the thumbs alone (+1 or -1).
    """

    sessions: int
    requests: int
    failed_requests: int
    cut_streams: int
    labels: int
    failed_labels: int
    accuracy: float | None
    reward: float | None


def open_client(base_url: str, *, api_key: str = "none") -> openai.AsyncOpenAI:
    """An ordinary client that never retries, so that every failure is seen."""
    return openai.AsyncOpenAI(
        base_url=base_url, api_key=api_key, max_retries=0, timeout=TIMEOUT_SECONDS
    )


def session_url(root: str, session_id: str) -> str:
    """The base URL that ties an agent's requests to one session."""
    return f"{root.rstrip('/')}/t/{session_id}/v1"


class Traffic:
    """Keeps `concurrency` sessions running against a gateway until told to stop.

    `base_url` is the gateway's root, without `/v1`. `on_session` is awaited after each session.
    `pause_seconds` is what each user waits between two sessions.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        seed: int,
        concurrency: int = 16,
        pause_seconds: float = 0.0,
        api_key: str = "none",
        habits: Habits | None = None,
        on_session: Callable[[Session], Awaitable[None]] | None = None,
    ) -> None:
        self.root = base_url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self.pause_seconds = pause_seconds
        self.crowd = Crowd(random.Random(f"crowd:{seed}"), habits)
        self._api_key = api_key
        self._questions = stream_questions(Split.TRAFFIC, seed)
        self._on_session = on_session
        self._stopping = asyncio.Event()
        self._requests = self._failed = self._cut = self._labels = self._failed_labels = 0
        self._right: deque[bool] = deque(maxlen=WINDOW)
        self._thumbs: deque[float] = deque(maxlen=WINDOW // 5)

    @property
    def counts(self) -> Counts:
        """The counters as they stand."""
        return Counts(
            sessions=self.crowd.sessions,
            requests=self._requests,
            failed_requests=self._failed,
            cut_streams=self._cut,
            labels=self._labels,
            failed_labels=self._failed_labels,
            accuracy=sum(self._right) / len(self._right) if self._right else None,
            reward=sum(self._thumbs) / len(self._thumbs) if self._thumbs else None,
        )

    def stop(self) -> None:
        """Let the sessions in flight finish and start no more."""
        self._stopping.set()

    async def run(self) -> Counts:
        """Run sessions until `stop` is called; returns the final counters."""
        agents = open_client(self.root, api_key=self._api_key)
        headers = {"Authorization": f"Bearer {self._api_key}"}
        users = httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_SECONDS)
        async with agents, users, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(self._keep_asking(agents, users))
        return self.counts

    async def _keep_asking(self, agents: openai.AsyncOpenAI, users: httpx2.AsyncClient) -> None:
        while not self._stopping.is_set():
            await self._hold_session(agents, users)
            await asyncio.sleep(self.pause_seconds)

    async def _hold_session(self, agents: openai.AsyncOpenAI, users: httpx2.AsyncClient) -> None:
        question, session_id = next(self._questions), uuid.uuid4().hex
        client = agents.with_options(base_url=session_url(self.root, session_id))
        reply = await answer(client, self.model, question.text)
        self._requests += reply.requests
        self._failed += reply.failure is Failure.REQUEST
        self._cut += reply.failure is Failure.STREAM
        right = is_right(question, reply.text)
        # Who got no answer at all has nothing to judge.
        thumb = self.crowd.react(right) if reply.failure is None else None
        number = self.crowd.sessions
        self._right.append(right)
        if thumb is not None:
            await self._post(users, session_id, thumb)
        if self._on_session is not None:
            now = time.monotonic()
            await self._on_session(Session(session_id, number, question, reply, right, thumb, now))
        if reply.failure is not None:
            await asyncio.sleep(0.2)  # a person would wait, too, before trying again

    async def _post(self, users: httpx2.AsyncClient, session_id: str, thumb: Thumb) -> None:
        body = {"session_id": session_id, "thumb": thumb.value}
        try:
            response = await users.post(f"{self.root}/v1/feedback", json=body)
            response.raise_for_status()
        except httpx2.HTTPError:
            self._failed_labels += 1
            return
        self._labels += 1
        self._thumbs.append(1.0 if thumb is Thumb.UP else -1.0)


async def evaluate(
    base_url: str, model: str, questions: Iterable[Question], *, concurrency: int = 16
) -> float:
    """Share of questions answered rightly by one policy, asked past the gateway.

    `base_url` is the inference server's root, `model` the adapter's name there. The agent and
    the temperature are those of the traffic. A failed request is an error here, not an answer.
    """
    waiting = iter(questions)
    verdicts: list[bool] = []

    async def work(client: openai.AsyncOpenAI) -> None:
        for question in waiting:
            reply = await answer(client, model, question.text)
            if reply.failure is not None:
                raise RuntimeError(f"evaluation of {model} met a failed {reply.failure}")
            verdicts.append(is_right(question, reply.text))

    async with open_client(f"{base_url.rstrip('/')}/v1") as client, asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work(client))
    return sum(verdicts) / len(verdicts)
