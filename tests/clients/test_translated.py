"""Responses and messages for our policy, whose engine is asked in chat.

The client must see what an upstream that speaks the dialect itself would have
said: texts, tool calls, event order. Only the counts of tokens differ, which
are the engine's. Behind it stands an exact record.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.clients.checks import check_keys, check_results, check_trajectories
from tests.clients.conftest import Place
from tests.clients.differential import CLIENTS, Client, both
from tests.fakes.openai_server import ScriptedServer

TRANSLATED = [client for client in CLIENTS if client.dialect in ("responses", "messages")]
COUNTED = {"usage", "input_tokens", "output_tokens", "total_tokens"}


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", TRANSLATED, ids=str)
def test_the_policy_answers_in_the_dialect_of_its_client(
    client: Client, policy: Place, tmp_path: Path
) -> None:
    with ScriptedServer().serve() as native:
        straight, through = both(client, native, policy.behind, policy.url, tmp_path)
    check_results(without_counts(straight.results), without_counts(through.results))
    check_keys(through)
    asked = [seen for seen in through.requests if seen.path != "/tokenize"]
    assert {seen.path for seen in asked} == {"/v1/chat/completions"}
    assert all(seen.body["return_token_ids"] is True for seen in asked)
    check_trajectories(policy, through)
    transitions = policy.transitions(len(asked))
    assert {transition.dialect for transition in transitions} == {client.dialect}
    assert all(transition.choices[0].is_aligned for transition in transitions)
    assert all(transition.prompt_token_ids for transition in transitions)


def without_counts(content: Any) -> Any:
    """The same without how many tokens it took."""
    if isinstance(content, dict):
        return {k: without_counts(v) for k, v in content.items() if k not in COUNTED}
    return [without_counts(entry) for entry in content] if isinstance(content, list) else content
