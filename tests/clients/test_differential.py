"""The same script, straight and through the gateway: nothing that matters may differ.

Needs the clients of `make test-clients`; openai-python, AzureOpenAI and
anthropic are in the tests' own environment and always run.
"""

from pathlib import Path

import pytest

from tests.clients.checks import check_bodies, check_keys, check_results, check_trajectories
from tests.clients.conftest import BASE, Place
from tests.clients.differential import CLIENTS, Client, both

AZURE = [client for client in CLIENTS if client.script == "langchain_azure.py"]
CHAT = [client for client in CLIENTS if client.dialect == "chat"]
NATIVE = [client for client in CLIENTS if client.dialect != "chat" or not client.environment]


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", CHAT, ids=str)
def test_the_policy_answers_a_client_as_its_engine_would(
    client: Client, policy: Place, tmp_path: Path
) -> None:
    straight, through = both(client, policy.straight, policy.behind, policy.url, tmp_path)
    check_results(straight.results, through.results)
    check_bodies(straight, through, {BASE})
    check_keys(through)
    check_trajectories(policy, through)


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", [*NATIVE, *AZURE], ids=str)
def test_a_foreign_upstream_is_passed_through(
    client: Client, foreign: Place, tmp_path: Path
) -> None:
    straight, through = both(client, foreign.straight, foreign.behind, foreign.url, tmp_path)
    check_results(straight.results, through.results)
    check_bodies(straight, through, set())
    check_keys(through)
    check_trajectories(foreign, through)
