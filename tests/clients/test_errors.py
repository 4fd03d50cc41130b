"""An upstream that refuses is seen by the application as if we were not there."""

from pathlib import Path

import pytest

from tests.clients.checks import check_results
from tests.clients.conftest import MODELS, Place
from tests.clients.differential import ERRORS, Client, both
from tests.fakes.openai_server import ScriptedServer


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", ERRORS, ids=str)
def test_the_error_of_a_foreign_upstream_is_passed_on(
    client: Client, foreign: Place, tmp_path: Path
) -> None:
    straight, through = both(client, foreign.straight, foreign.behind, foreign.url, tmp_path)
    check_results(straight.results, through.results)


@pytest.mark.usefixtures("_can_run")
@pytest.mark.parametrize("client", ERRORS, ids=str)
def test_the_error_of_our_engine_is_passed_on(
    client: Client, policy: Place, tmp_path: Path
) -> None:
    # Straight, the like of our engine does not speak messages as Anthropic does: another does.
    like = ScriptedServer(is_vllm=client.dialect != "messages", base_model=MODELS[0])
    with like.serve() as straight:
        seen, through = both(client, straight, policy.behind, policy.url, tmp_path)
    check_results(seen.results, through.results)
