"""AutoGen's group chat of three agents, unmodified: one trajectory, every turn under its agent."""

from pathlib import Path

import pytest

from tests.clients.conftest import Place
from tests.clients.differential import CLIENTS, Client, play, scenario_of

TEAM = [client for client in CLIENTS if client.script == "autogen_team.py"]


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", TEAM, ids=str)
def test_the_agents_of_a_group_chat_are_told_apart(
    client: Client, policy: Place, tmp_path: Path
) -> None:
    play(client, policy.url, tmp_path)
    found = {
        scenario_of(whole.transitions[0].request): [t.agent for t in whole.transitions]
        for whole in policy.trajectories(12)
    }
    turns = ["planner", "guide", "critic"] * 2
    assert found == {"team": turns, "team-streamed": turns}
