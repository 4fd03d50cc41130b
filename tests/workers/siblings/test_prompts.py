"""Which recorded call is answered anew: never one that nothing may be learned from."""

from dataclasses import replace
from typing import Any

import pytest

from tests.workers.siblings.records import recorded
from trajectories.model import Choice, Outcome, Sampling, Trajectory, Transition
from trajectories.privacy.learning import personal_check
from trajectories.settings import AgentSettings, Settings
from workers.siblings.prompts import Rules, prompt_to_answer

RULES = Rules.of(Settings(), None)


def trajectory(*transitions: Transition, **fields: Any) -> Trajectory:
    found: dict[str, Any] = {"id": "traj_a", "started_at": 0, "updated_at": 1, "is_closed": True}
    return Trajectory(**{**found, **fields}, transitions=transitions)


def asked_of(of: Trajectory, rules: Rules) -> Transition | None:
    found = prompt_to_answer(of, rules)
    return None if found is None else found.call


def test_the_last_call_is_answered_or_the_first() -> None:
    steps = [recorded(number) for number in range(3)]
    assert asked_of(trajectory(*steps), RULES) == steps[2]
    assert asked_of(trajectory(*steps), replace(RULES, is_last=False)) == steps[0]


@pytest.mark.parametrize(
    "update",
    [
        {"sampling": Sampling(temperature=0.0)},
        {"sampling": Sampling(is_constrained=True)},
        {"sampling": Sampling(top_k=1)},
        {"outcome": Outcome.INCOMPLETE},
        {"policy": "another"},
        {"policy": None},
        {"policy_version": None},
        {"prompt_token_ids": ()},  # redacted
        {"prompt_token_ids": tuple(range(4090))},  # no room to answer
        {"choices": ()},
        {"choices": (Choice(message={"role": "assistant", "content": "x"}),)},
        {"request": {"model": "policy", "messages": []}},
        {"request": {"messages": [{"role": "user", "content": "x"}]}},
        {"request": {"model": "policy", "prompt": "x"}},
        {"agent": "off"},
    ],
)
def test_a_call_that_teaches_nothing_is_passed_over(update: dict[str, Any]) -> None:
    rules = Rules.of(Settings(agents={"off": AgentSettings(train=False)}), None)
    good, bad = recorded(0), recorded(1).model_copy(update=update)
    assert asked_of(trajectory(good, bad), rules) == good
    assert asked_of(trajectory(bad), rules) is None


def test_one_call_that_opted_out_keeps_the_whole_trajectory_out() -> None:
    out = recorded(0).model_copy(update={"is_trainable": False})
    assert asked_of(trajectory(out, recorded(1)), RULES) is None
    assert asked_of(trajectory(recorded(1), out), RULES) is None
    assert asked_of(trajectory(recorded(1), out), replace(RULES, is_last=False)) is None


def test_nothing_is_asked_after_somebody_was_named() -> None:
    rules = Rules.of(Settings(), personal_check(Settings()))
    named = recorded(1, messages=[{"role": "user", "content": "I am ann@example.org"}])
    first, last = recorded(0), recorded(2)
    assert asked_of(trajectory(first, named, last), rules) == first
    assert asked_of(trajectory(named, last), rules) is None


@pytest.mark.parametrize("fields", [{"rollout": "tr_x"}, {"tenant": "acme"}, {"is_closed": False}])
def test_some_trajectories_are_never_taken(fields: dict[str, Any]) -> None:
    assert asked_of(trajectory(recorded(), **fields), RULES) is None


def test_only_the_agents_that_are_named() -> None:
    rules = replace(RULES, agents=frozenset({"writer"}))
    theirs, other = recorded(0).model_copy(update={"agent": "writer"}), recorded(1)
    assert asked_of(trajectory(theirs, other), rules) == theirs


def test_the_share_is_drawn_by_name_and_about_as_large_as_it_says() -> None:
    rules = replace(RULES, share=0.25)
    drawn = [rules.draws(f"traj_{number}") for number in range(2000)]
    assert drawn == [rules.draws(f"traj_{number}") for number in range(2000)]
    assert 400 < sum(drawn) < 600
    assert all(replace(RULES, share=1.0).draws(f"traj_{number}") for number in range(50))
    assert not any(replace(RULES, share=0.0).draws(f"traj_{number}") for number in range(50))
