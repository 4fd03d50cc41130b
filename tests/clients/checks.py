"""What must hold for two runs of a script, one straight and one through the gateway."""

import re
from collections import defaultdict
from typing import Any

from tests.clients.conftest import Place
from tests.clients.differential import (
    CLIENT_KEY,
    UPSTREAM_KEY,
    Run,
    authority,
    numbered,
    scenario_of,
    without_additions,
    without_ids,
)
from tests.fakes.vllm import Seen


def check_results(straight: dict[str, Any], through: dict[str, Any]) -> None:
    """The application saw the same, and what it saw were answers."""
    objects = [seen for seen in straight.values() if isinstance(seen, dict)]
    assert [seen for seen in objects if "error" in seen] == [], "the script itself fails"
    assert numbered(through) == numbered(straight)


def check_bodies(straight: Run, through: Run, models: set[str]) -> None:
    """The upstream saw the same, but for what is added and the ids that are ours."""
    sent = [seen for seen in straight.requests if seen.method == "POST"]
    seen = [seen for seen in through.requests if seen.method == "POST"]
    assert [plain_path(entry.path) for entry in seen] == [plain_path(e.path) for e in sent]
    cleaned = [
        without_additions(was.body, now.body, models | deployment(was))
        for was, now in zip(sent, seen, strict=True)
    ]
    assert numbered(cleaned) == numbered([without_ids(entry.body) for entry in sent])


def check_keys(through: Run) -> None:
    """Our key never leaves the house, the upstream's own takes its place."""
    keys = [key for seen in through.requests for key in authority(seen.headers)]
    assert CLIENT_KEY not in keys
    assert set(keys) == {UPSTREAM_KEY}


def check_trajectories(place: Place, through: Run) -> None:
    """The calls of a scenario are one trajectory, and of no other scenario."""
    # Neither counting tokens nor embedding says anything that could be learned from.
    unrecorded = ("token", "embeddings")
    posted = [e for e in through.requests if e.method == "POST"]
    calls = [e for e in posted if not any(name in e.path for name in unrecorded)]
    by_scenario = defaultdict(set)
    by_trajectory = defaultdict(set)
    for trajectory in place.trajectories(len(calls)):
        for transition in trajectory.transitions:
            scenario = scenario_of(transition.request)
            by_scenario[scenario].add(trajectory.id)
            by_trajectory[trajectory.id].add(scenario)
    assert set(by_scenario) == {scenario_of(seen.body) for seen in calls}
    assert {name: len(ids) for name, ids in by_scenario.items()} == dict.fromkeys(by_scenario, 1)
    assert all(len(names) == 1 for names in by_trajectory.values())


def deployment(sent: Seen) -> set[str]:
    """The model that Azure names in the path, where the body names none."""
    found = re.match(r"/openai/deployments/([^/]+)", sent.path)
    return {found[1]} if found and sent.body.get("model") is None else set()


def plain_path(path: str) -> str:
    """A route without Azure's way of writing it."""
    return re.sub(r"^/openai/deployments/[^/]+", "/v1", path.partition("?")[0])
