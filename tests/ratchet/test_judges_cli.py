"""`ratchet judges`: what an operator reads of verdicts, and a calibration by hand."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet import cli, judges
from ratchet.up import process_specs
from tests.workers.records import transition, vote
from trajectories.connection import Redis
from trajectories.model import Feedback
from trajectories.settings import RedisSettings, load_settings
from trajectories.store import Store, TrajectoryRef, VerdictState

runner = CliRunner(env={"COLUMNS": "250"})
TOML = """
[judges.helpful]
model = "m"
calls_per_day = 500
[webhooks.ci]
url = "http://x"
secret = "s"
"""


@pytest.fixture(autouse=True)
def _use_the_server(
    redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ratchet.toml").write_text(TOML)
    monkeypatch.setenv("RATCHET_CONFIG", str(tmp_path / "ratchet.toml"))
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)
    monkeypatch.setattr(judges.out, "_width", 250)


def ratchet(*words: str) -> Any:
    return runner.invoke(cli.app, ["judges", *words])


def judged(store: Store, number: int, raw: float, human: float) -> None:
    """A trajectory that a judge and a person spoke of."""
    ref = TrajectoryRef("default", f"traj_{number}")
    store.add_transition(transition(0, trajectory=ref.id, content="a"))
    store.add_feedback(vote(human, trajectory=ref.id))
    said: Feedback = vote(raw, trajectory=ref.id, source="judge", source_id="helpful")
    store.add_feedback(said.model_copy(update={"metadata": {"raw": raw}}))
    store.put_verdict_state("helpful", ref, VerdictState(stamp="1", state="given"))
    store.count_verdict("helpful", "default", {"given": 1, "calls": 1, "tokens": 700})


def test_the_list_shows_verdicts_spending_and_failures(redis: Redis) -> None:
    store = Store(redis)
    judged(store, 0, 0.5, 1.0)
    store.count_verdict("helpful", "default", {"failed:timeout": 3, "failed:garbage": 1})
    shown = ratchet()
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.output.splitlines() if "helpful" in line)
    for word in ("pointwise", "default", "700", "0/500", "garbage 1, timeout 3"):
        assert word in line
    assert "webhook" in shown.output


def test_a_calibration_by_hand_shows_what_scores_stand_for(redis: Redis) -> None:
    store = Store(redis)
    for number in range(40):
        judged(store, number, raw=1.0 if number % 2 else 0.0, human=0.5 if number % 2 else -0.5)
    shown = ratchet("calibrate")
    assert shown.exit_code == 0, shown.output
    assert "helpful (default), version 1: 40 pairs" in shown.output
    assert "mean error 0.50 -> 0.00" in shown.output
    assert "+1.00   +0.50" in shown.output
    assert "of 40" in ratchet().output


def test_too_few_labels_are_said(redis: Redis) -> None:
    judged(Store(redis), 0, 0.5, 1.0)
    assert "fewer than 30" in ratchet("calibrate").output


def test_without_judges_it_says_how_to_have_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ratchet.toml").write_text("")
    assert "[judges.NAME]" in ratchet().output


def test_the_verdict_process_is_started_where_there_is_somebody_to_ask(tmp_path: Path) -> None:
    names = [spec.name for spec in process_specs(load_settings(), {})]
    assert "verdicts" in names
    (tmp_path / "ratchet.toml").write_text("")
    assert "verdicts" not in [spec.name for spec in process_specs(load_settings(), {})]
