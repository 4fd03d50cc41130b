"""What the official client does when a call goes wrong, and what is recorded of it."""

from contextlib import ExitStack
from typing import Any

import pytest

from tests.clients.conftest import MODELS, Place
from tests.clients.differential import CLIENT_KEY
from tests.gateway.conftest import wait_for
from trajectories.model import Outcome
from workers.linking import call_digest

OpenAI = pytest.importorskip("openai").OpenAI
QUESTION: list[Any] = [{"role": "user", "content": "Scenario broken: what is the weather?"}]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_retry_of_the_client_is_another_attempt(policy: Place, is_streamed: bool) -> None:
    policy.behind.fault, policy.behind.fault_count = "500", 1
    with OpenAI(base_url=f"{policy.url}/v1", api_key=CLIENT_KEY) as client:
        answer: Any = client.chat.completions.create(
            model=MODELS[0], messages=QUESTION, stream=is_streamed
        )
        text = joined(answer) if is_streamed else answer.choices[0].message.content
    assert text.startswith("Answer ")
    [delivered] = policy.transitions(2)
    assert (delivered.attempt, delivered.outcome) == (1, Outcome.COMPLETE)
    attempts = policy.store.attempts(delivered.tenant, call_digest(delivered))
    assert [(attempt.number, attempt.is_complete) for attempt in attempts] == [
        (0, False),
        (1, True),
    ]


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
def test_a_client_that_hangs_up_stops_the_engine(policy: Place, dialect: str) -> None:
    policy.behind.hold()
    policy.behind.release(4)
    with ExitStack() as clients:
        stream = streamed(clients, policy.url, dialect)
        next(event for event in stream if "Answer" in event.to_json())
        stream.close()
    wait_for(lambda: policy.behind.cancelled == 1)
    [cut] = policy.transitions(1)
    assert (cut.outcome, cut.dialect) == (Outcome.DISCONNECTED, dialect)
    assert cut.choices[0].message["content"].startswith("Answer")
    assert cut.choices[0].finish_reason is None


def streamed(clients: ExitStack, url: str, dialect: str) -> Any:
    """A stream that an official client has opened."""
    if dialect == "messages":
        anthropic = pytest.importorskip("anthropic").Anthropic(base_url=url, api_key=CLIENT_KEY)
        return clients.enter_context(anthropic).messages.create(
            model=MODELS[0], max_tokens=99, messages=QUESTION, stream=True
        )
    client = clients.enter_context(OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY))
    if dialect == "responses":
        return client.responses.create(model=MODELS[0], input=QUESTION, stream=True)
    return client.chat.completions.create(model=MODELS[0], messages=QUESTION, stream=True)


def joined(stream: Any) -> str:
    """A stream's text."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)
