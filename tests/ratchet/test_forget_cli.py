"""`ratchet forget`: what a person types, and what they read back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ratchet import cli
from tests.trajectories.archive.test_place import segment
from tests.trajectories.test_forget import call, ref_of, rewarded
from trajectories.archive import Place
from trajectories.connection import connect
from trajectories.settings import RedisSettings, load_settings

runner = CliRunner()


@pytest.fixture
def store(
    redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Any]:
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)
    monkeypatch.setenv("RATCHET_DATA_DIR", str(tmp_path))
    client = connect(redis_settings)
    yield lambda *steps: rewarded(client, *steps)
    client.close()


def archive_url() -> str:
    return load_settings().archive_url


def test_a_session_is_named_as_its_client_names_it(store: Any) -> None:
    step = call("s1")
    kept = store(step)
    looked = runner.invoke(cli.app, ["forget", "--session", "s1", "--dry-run"])
    assert looked.exit_code == 0, looked.output
    assert "would go" in looked.output
    assert kept.trajectory(ref_of(step)) is not None
    done = runner.invoke(cli.app, ["forget", "--session", "s1"])
    assert done.exit_code == 0, done.output
    assert kept.trajectory(ref_of(step)) is None
    assert "trajectories in Redis" in done.output
    assert f"no archive at {archive_url()}" in done.output


def test_a_user_and_a_trajectory_may_be_named_instead(store: Any) -> None:
    one, other = call("s1", user="ann"), call("s2", user="bob")
    kept = store(one, other)
    assert runner.invoke(cli.app, ["forget", "--user", "ann"]).exit_code == 0
    assert kept.trajectory(ref_of(one)) is None
    assert kept.trajectory(ref_of(other)) is not None
    done = runner.invoke(cli.app, ["forget", "--trajectory", other.trajectory_id])
    assert done.exit_code == 0
    assert kept.trajectory(ref_of(other)) is None
    place = Place(archive_url())
    list(segment(place).seal())
    nobody = runner.invoke(cli.app, ["forget", "--user", "nobody"])
    assert "nothing of it was found" in nobody.output
    assert "no archive at" not in nobody.output


def test_one_thing_has_to_be_named(store: Any) -> None:
    for arguments in ([], ["--user", "a", "--session", "b"]):
        refused = runner.invoke(cli.app, ["forget", *arguments])
        assert refused.exit_code == 1
        assert "one of --trajectory, --session and --user" in str(refused.exception)
