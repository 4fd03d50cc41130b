"""How the gateway is asked: as whom, with what, and what counts as an answer."""

from typing import Any

import pytest

from tests.fakes.answering import answering
from tests.workers.siblings.records import ASKED, recorded
from trajectories.errors import SettingsError
from trajectories.model import Transition
from trajectories.rollouts import Rollout
from trajectories.settings import PolicySettings, Settings, load_settings
from workers.siblings.asking import (
    Asker,
    NoAnswer,
    agents_elsewhere,
    alias_of,
    body_of,
    read_answer,
)

WHOLE = {
    "choices": [{"message": {"role": "assistant", "content": "x"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


def ask(url: str, like: Transition, **siblings: Any) -> Any:
    settings = load_settings(siblings={"url": url, "api_key": "k", **siblings})
    asker = Asker(settings, "policy")
    return asker.ask(Rollout("default", "tr_1", 2), like, ASKED, 100)


def test_it_says_what_it_is_and_asks_as_was_asked() -> None:
    like = recorded(temperature=0.9, seed=1, stream=True, n=2, top_p=0.95).model_copy(
        update={"agent": "writer", "task": "sums"}
    )
    with answering(lambda _: WHOLE) as server, pytest.raises(NoAnswer, match="nobody answered"):
        ask(server.url, like)
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["x-ratchet-rollout"] == "default/tr_1/2"
    assert asked.headers["authorization"] == "Bearer k"
    assert asked.headers["x-agent-id"] == "writer"
    assert asked.headers["x-task-id"] == "sums"
    assert asked.body == {
        "model": "policy",
        "messages": ASKED,
        "temperature": 0.9,
        "top_p": 0.95,
        "max_tokens": 100,
    }


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        ({}, {"max_tokens": 100}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 700}, {"max_completion_tokens": 100}),
        ({"max_tokens": None}, {"max_tokens": 100}),
    ],
)
def test_no_more_is_asked_for_than_can_be_learned(
    request_: dict[str, Any], limit: dict[str, int]
) -> None:
    body = body_of({"model": "m", "messages": [], **request_}, ASKED, 100)
    assert body == {"model": "m", "messages": ASKED, **limit}


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"choices": [], "usage": {}}', b"nope"])
def test_anything_else_is_no_answer(raw: bytes) -> None:
    with pytest.raises(NoAnswer):
        read_answer(raw)


def test_a_refusal_says_why() -> None:
    body = {"error": {"code": "wrong_scope", "message": "..."}}
    with answering(lambda _: (403, body)) as server, pytest.raises(NoAnswer) as refused:
        ask(server.url, recorded())
    assert str(refused.value) == "the gateway answered 403: wrong_scope"
    assert (refused.value.is_unasked, refused.value.is_of_prompt) == (True, False)


@pytest.mark.parametrize(("status", "is_unasked"), [(400, True), (503, False)])
def test_it_says_whether_an_engine_may_have_answered(status: int, is_unasked: bool) -> None:
    with answering(lambda _: (status, {})) as server, pytest.raises(NoAnswer) as refused:
        ask(server.url, recorded())
    assert (refused.value.is_unasked, refused.value.is_of_prompt) == (is_unasked, is_unasked)
    with pytest.raises(NoAnswer) as refused:
        ask(server.url, recorded())  # nobody is there any more
    assert (refused.value.is_unasked, refused.value.is_of_prompt) == (True, False)


def test_a_policy_is_asked_by_a_name_of_its_own() -> None:
    own = {"p2": PolicySettings(agents=("a",), aliases=("two",))}
    assert alias_of(load_settings(policies=own), "p2") == "two"
    assert alias_of(Settings(), "policy") == "policy"
    assert alias_of(load_settings(gateway={"aliases": ["*"]}), "policy") is None


@pytest.mark.parametrize(
    ("agent", "policies", "is_said"),
    [
        ("planner", {}, True),
        ("a b", {}, False),  # read from a message; the gateway would keep it otherwise
        ("规划", {}, False),
        ("planner", {"p2": {"agents": ["planner"]}}, False),  # p2 would answer
        ("planner", {"p2": {"agents": ["planner"], "tenant": "acme"}}, True),
    ],
)
def test_the_agent_is_named_unless_another_policy_would_answer(
    agent: str, policies: dict[str, Any], is_said: bool
) -> None:
    like = recorded().model_copy(update={"agent": agent})
    with answering(lambda _: WHOLE) as server:
        settings = load_settings(siblings={"url": server.url, "api_key": "k"}, policies=policies)
        asker = Asker(settings, "policy")
        with pytest.raises(NoAnswer, match="nobody answered"):
            asker.ask(Rollout("default", "tr_1", 2), like, ASKED, 100)
    assert server.asked[0].headers.get("x-agent-id") == (agent if is_said else None)


def test_a_policy_that_has_a_name_is_asked_by_it_for_any_agent() -> None:
    own = {"p2": PolicySettings(agents=("a",)), "p3": PolicySettings(aliases=("three",))}
    assert agents_elsewhere(load_settings(policies=own), "policy") == {"a"}
    assert agents_elsewhere(load_settings(policies=own), "p2") == frozenset()
    assert agents_elsewhere(load_settings(policies=own), "p3") == frozenset()


def test_a_variable_without_its_key_does_not_start() -> None:
    settings = load_settings(siblings={"api_key_env": "NOT_SET_ANYWHERE"})
    with pytest.raises(SettingsError, match="NOT_SET_ANYWHERE"):
        Asker(settings, "policy")
