"""The recipes: a session and an agent in the address or in a variable, and no line of code."""

from pathlib import Path

import pytest

from tests.clients.conftest import Place
from tests.clients.differential import CLIENTS, Client, play

OWN = [client for client in CLIENTS if client.environment is None and client.dialect != "rest"]
WITH_HEADERS = [client for client in OWN if client.script != "azure_chat.py"]
VARIABLES = ("OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS")


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", OWN, ids=str)
def test_an_address_names_session_and_agent(client: Client, policy: Place, tmp_path: Path) -> None:
    play(client, f"{policy.url}/a/support/t/run-7", tmp_path)
    check_session(policy, "url")


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", WITH_HEADERS, ids=str)
def test_a_variable_names_session_and_agent(client: Client, policy: Place, tmp_path: Path) -> None:
    headers = dict.fromkeys(VARIABLES, "x-session-id: run-7\nx-agent-id: support")
    play(client, policy.url, tmp_path, **headers)
    check_session(policy, "header")


def check_session(place: Place, source: str) -> None:
    """All calls of the script are one trajectory, and named."""
    asked = [seen for seen in place.behind.requests if "/completions" in seen.path]
    assert asked
    [whole] = place.trajectories(len(asked))
    assert len(whole.transitions) == len(asked)
    named = {(t.session_id, t.agent, t.session_source) for t in whole.transitions}
    assert named == {("run-7", "support", source)}
