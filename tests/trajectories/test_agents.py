"""Agents' names read from what a team tells itself: nothing where it cannot be told."""

import itertools
from typing import Any

from tests.workers.calls import assistant, made, user
from trajectories.agents import name_agents
from trajectories.model import Transition

TASK = user("Make a shelf.", name="user")


def system(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": text, **more}


def names(*transitions: Transition) -> list[str | None]:
    return [transition.agent for transition in name_agents(transitions)]


def team(*prompts: str) -> list[Transition]:
    """Two agents, three turns."""
    one, two = prompts
    return [
        made("0", [system(one), TASK], "Plan it."),
        made("1", [system(two), TASK, user("Plan it.", name="planner")], "Done."),
        made(
            "2",
            [system(one), TASK, assistant("Plan it."), user("Done.", name="worker")],
            "Plan it again.",
        ),
    ]


def test_a_name_is_that_under_which_others_were_shown_the_answer() -> None:
    assert names(*team("You plan.", "You work.")) == ["planner", "worker", "planner"]


def test_agents_with_one_prompt_are_known_by_their_own_words() -> None:
    assert names(*team("You help.", "You help.")) == ["planner", "worker", "planner"]


def test_the_names_do_not_depend_on_the_order() -> None:
    turns = team("You plan.", "You work.")
    for order in itertools.permutations(turns):
        found = {entry.id: entry.agent for entry in name_agents(order)}
        assert found == {"tr_0": "planner", "tr_1": "worker", "tr_2": "planner"}


def test_a_name_that_the_client_sent_stays() -> None:
    first, *rest = team("You plan.", "You work.")
    sent = first.model_copy(update={"agent": "boss"})
    assert names(sent, *rest) == ["boss", "worker", "boss"]


def test_what_two_agents_said_names_neither_by_it() -> None:
    turns = [
        made("0", [system("A"), TASK], "OK"),
        made("1", [system("B"), TASK, user("OK", name="a")], "OK"),
        made("2", [system("C"), TASK, user("OK", name="a"), user("OK", name="b")], "Bye."),
    ]
    assert names(*turns) == [None, None, None]


def test_who_is_shown_a_name_as_anothers_does_not_have_it() -> None:
    first, second, _ = team("You help.", "You help.")
    assert names(first, second) == ["planner", None]


def test_a_name_on_the_system_prompt_is_the_agents_own() -> None:
    turns = [made("0", [system("Answer.", name="Weather"), user("Hi")], "Hello.")]
    assert names(*turns) == ["Weather"]


def test_a_users_name_is_no_agents() -> None:
    turns = [
        made("0", [user("Hi", name="bob")], "Hello."),
        made("1", [user("Hi", name="bob"), assistant("Hello."), user("Bye", name="bob")], "Bye."),
    ]
    assert names(*turns) == [None, None]
