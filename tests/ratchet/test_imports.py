"""What is imported: our own lines and others', checked as a whole, once however often."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from typer.testing import CliRunner

from ratchet import cli
from ratchet.export import Format, export_rows
from ratchet.imports import Defaults, parse
from tests.trajectories.archive.records import archived
from trajectories.connection import Redis
from trajectories.lines import LineError
from trajectories.model import Transition
from trajectories.settings import RedisSettings
from trajectories.store import Store, TrajectoryRef

runner = CliRunner()
DEFAULTS = Defaults("default", None, None, 5_000.0)
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Kurz."},
        {"role": "user", "content": "天気?"},
        {"role": "assistant", "content": "Sonnig. ☀"},
        {"role": "user", "content": "Und morgen?"},
        {"role": "assistant", "content": "Regen."},
    ]
}


def line(row: Any) -> bytes:
    return orjson.dumps(row)


def test_a_chat_becomes_a_transition_for_each_answer_that_weighs_something() -> None:
    found = parse(line(CHAT), DEFAULTS)
    assert [step.choices[0].message["content"] for step in found.transitions] == [
        "Sonnig. ☀",
        "Regen.",
    ]
    assert [len(step.request["messages"]) for step in found.transitions] == [2, 4]
    assert found.transitions[0].prompt_token_ids == ()
    assert found == parse(line(CHAT), DEFAULTS), "the same row, the same ids"
    light = [dict(message) for message in CHAT["messages"]]
    light[2]["weight"] = 0
    assert len(parse(line({"messages": light}), DEFAULTS).transitions) == 1


def test_an_exported_trajectory_comes_back_as_it_was() -> None:
    made = archived(turns=3)
    (row,) = export_rows(lambda: iter([made]), Format.TRAJECTORY)
    found = parse(line(row), DEFAULTS)
    assert found.transitions == made.trajectory.transitions
    assert found.feedback == made.feedback
    theirs = parse(line(row), Defaults("acme", None, None, 0.0))
    assert {step.tenant for step in theirs.transitions} == {"acme"}


def test_exported_transitions_come_back_without_ids_of_tokens() -> None:
    made = archived(turns=2)
    rows = list(export_rows(lambda: iter([made]), Format.TRANSITIONS))
    found = [parse(line(row), DEFAULTS).transitions[0] for row in rows]
    assert [step.id for step in found] == [step.id for step in made.trajectory.transitions]
    assert found[1].request["messages"] == made.trajectory.transitions[1].request["messages"]


def test_a_reward_enters_as_a_vote() -> None:
    found = parse(line(CHAT | {"reward": 0.25}), DEFAULTS)
    (vote,) = found.feedback
    assert (vote.reward, vote.source.type, vote.source.id) == (0.25, "code", "import")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "neither a trajectory"),
        (line({"messages": []}), "messages: not a list"),
        (line({"messages": [{"role": "wizard"}]}), "messages.0: not a message with one of"),
        (line({"messages": [{"role": "user", "content": "x"}]}), "no answer of the assistant"),
        (line(CHAT | {"reward": 7}), "reward: not a number from -1 to 1"),
        (line(CHAT | {"reward": True}), "reward: not a number"),
        (line(CHAT | {"tools": {}}), "tools: not a list"),
        (line(CHAT | {"timestamp": "soon"}), "timestamp: neither"),
        (line({"transitions": [{}]}), "id: Field required"),
        (line({"transitions": []}), "transitions: there are none"),
    ],
)
def test_what_is_no_record_says_why(row: bytes, reason: str) -> None:
    with pytest.raises(LineError, match=reason):
        parse(row, DEFAULTS)


@pytest.fixture
def redis_there(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Redis:
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)
    monkeypatch.setenv("RATCHET_DATA_DIR", str(tmp_path / "data"))
    return redis


def run(*arguments: str) -> Any:
    return runner.invoke(cli.app, ["import", *arguments])


def write(path: Path, *rows: bytes) -> Path:
    raw = b"\n".join(rows) + b"\n"
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(packed.get(path.suffix, bytes)(raw))
    return path


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_file_is_stored_once_however_often_it_is_imported(
    redis_there: Redis, tmp_path: Path, suffix: str
) -> None:
    made = archived("traj_b", turns=2)
    (ours,) = export_rows(lambda: iter([made]), Format.TRAJECTORY)
    file = write(tmp_path / f"in.jsonl{suffix}", line(CHAT | {"reward": 1}), b"", line(ours))
    for shown in ("4 transitions stored, 0 were there", "0 transitions stored, 4 were there"):
        result = run(str(file), "--tenant", "acme", "--agent", "a")
        assert result.exit_code == 0, result.output
        assert shown in result.stderr
    store = Store(redis_there)
    assert store.counts()["transitions"] == 4
    scorable = store.scorable(TrajectoryRef("acme", "traj_b"))
    assert scorable is not None
    assert scorable.trajectory.is_closed
    assert [vote.reward for vote in scorable.feedback] == [0.5]
    steps: tuple[Transition, ...] = scorable.trajectory.transitions
    assert steps[0].prompt_token_ids == made.trajectory.transitions[0].prompt_token_ids


def test_one_bad_line_and_nothing_is_stored(redis_there: Redis, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", line(CHAT), b"", b"{", line({"messages": 1}))
    result = run(str(file))
    assert result.exit_code == 1
    assert "line 3: not JSON" in result.stderr
    assert "line 4: messages" in result.stderr
    assert "2 of 3 lines are not records; nothing was stored" in str(result.exception)
    assert not list(redis_there.scan_iter())


def test_a_dry_run_stores_nothing(redis_there: Redis, tmp_path: Path) -> None:
    result = run(str(write(tmp_path / "in.jsonl", line(CHAT))), "--dry-run")
    assert "1 lines are well formed; nothing was stored" in result.stderr
    assert not list(redis_there.scan_iter())


def test_a_secret_in_a_file_is_redacted_like_one_in_a_call(
    redis_there: Redis, tmp_path: Path
) -> None:
    secret = "sk-proj-" + "a1B2c3D4" * 6
    row = {"messages": [{"role": "user", "content": secret}, {"role": "assistant", "content": "x"}]}
    assert run(str(write(tmp_path / "in.jsonl", line(row)))).exit_code == 0
    assert all(secret.encode() not in redis_there.dump(key) for key in redis_there.scan_iter())


def test_a_wrong_tenant_is_refused(redis_there: Redis, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", line(CHAT))
    assert "no name of a tenant" in str(run(str(file), "--tenant", "a:b").exception)
