"""What a person types, and what they read back."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from ratchet import cli, training
from trajectories import keys
from trajectories.connection import Redis
from trajectories.model import Choice, Transition
from trajectories.registry import Registry, Weights
from trajectories.resources import Kind, PolicyVersion, VersionState
from trajectories.settings import RedisSettings
from trajectories.store import Store, TrajectoryRef

runner = CliRunner()


@pytest.fixture(autouse=True)
def _use_the_server(redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_settings.url)


def candidate(version: int) -> PolicyVersion:
    return PolicyVersion(
        policy="policy",
        version=version,
        model=f"policy-v{version}-00000000",
        state=VersionState.CANDIDATE,
        run_id=f"run_{version}",
        created_at=time.time(),
        metrics={"reward_mean": 0.25, "trajectories": 64},
    )


def transition(number: int, reward: float | None, store: Store) -> None:
    recorded = Transition(
        id=f"tr_{number}",
        trajectory_id=f"traj_{number}",
        session_id=f"s{number}",
        agent="support",
        task="refund",
        gateway="gw",
        started_at=1_700_000_000.0 + number,
        latency_seconds=0.5,
        request={"messages": [{"role": "user", "content": f"question {number}"}]},
        response_id=f"chatcmpl-{number}",
        model="base",
        policy="policy",
        policy_version=0,
        choices=(Choice(message={"role": "assistant", "content": "an answer"}),),
    )
    store.add_transition(recorded)
    ref = TrajectoryRef("default", recorded.trajectory_id)
    scorable = store.scorable(ref)
    assert scorable is not None
    store.put_rewards(ref, rewards=(), final=reward, is_labelled=True, revision=scorable.revision)


def test_policies_lists_versions_with_their_state_and_reward(redis: Redis) -> None:
    registry = Registry(redis, "policy", "base")
    registry.add(candidate(1))
    registry.promote(1)
    shown = runner.invoke(cli.app, ["policies"]).output
    assert "current" in shown
    assert "+0.250" in shown


def test_rollback_brings_the_version_before_back_at_once(redis: Redis) -> None:
    registry = Registry(redis, "policy", "base")
    for version in (1, 2):
        registry.add(candidate(version))
        registry.promote(version)
    result = runner.invoke(cli.app, ["rollback"])
    assert "policy@2 -> policy@1" in result.output
    assert registry.snapshot().current == 1


def test_of_several_policies_the_commands_take_a_name(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_POLICIES", '{"planner": {"agents": ["planner"]}}')
    registry = Registry(redis, "planner", "base")
    registry.add(candidate(1).model_copy(update={"policy": "planner"}))
    registry.promote(1)
    shown = runner.invoke(cli.app, ["status"]).output
    assert "planner@1" in shown
    assert "policy@0" in shown
    assert "policy@0" not in runner.invoke(cli.app, ["status", "--policy", "planner"]).output
    assert "policy planner, revision 2" in runner.invoke(cli.app, ["policies"]).output
    result = runner.invoke(cli.app, ["rollback", "--policy", "planner"])
    assert "planner@1 -> planner@0" in result.output
    assert registry.snapshot().current == 0
    asked = runner.invoke(cli.app, ["rollback"])
    assert "say --policy with one of policy, planner" in str(asked.exception)
    unknown = runner.invoke(cli.app, ["rollback", "--policy", "writer"])
    assert "there are: policy, planner" in str(unknown.exception)


def test_rollback_to_an_unloaded_version_without_a_trainer_says_what_to_do(redis: Redis) -> None:
    registry = Registry(redis, "policy", "base")
    for version in (1, 2):
        registry.add(candidate(version))
        registry.promote(version)
    registry.move(1, VersionState.RETIRED)
    registry.move(1, VersionState.UNLOADED)
    shown = subprocess.run(
        [sys.executable, "-m", "ratchet.cli", "rollback", "--to", "1"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 1
    assert "no trainer runs to load it" in " ".join(shown.stderr.split())
    assert registry.snapshot().current == 2


def test_full_weights_are_rolled_back_by_the_trainer_even_to_the_base(redis: Redis) -> None:
    registry = Registry(redis, "policy", "base")
    registry.add(candidate(1).model_copy(update={"kind": Kind.FULL}))
    registry.promote(1)
    registry.note_weights(Weights(url="http://engine", version=1, wanted=1))
    shown = runner.invoke(cli.app, ["rollback"])
    assert "no trainer runs to load it" in str(shown.exception)
    assert registry.snapshot().current == 1
    registry.note_weights(Weights(url="http://engine", is_out=True, reason="out of memory"))
    status = " ".join(runner.invoke(cli.app, ["status"]).output.split())
    assert "http://engine is out of routing: out of memory" in status


def test_export_writes_one_line_a_transition_and_null_where_nothing_was_said(
    redis: Redis, tmp_path: Path
) -> None:
    store = Store(redis)
    transition(1, 1.0, store)
    transition(2, None, store)
    target = tmp_path / "traffic.jsonl"
    assert runner.invoke(cli.app, ["export", str(target)]).exit_code == 0
    rows = sorted(
        (orjson.loads(line) for line in target.read_bytes().splitlines()),
        key=lambda row: row["trajectory_id"],
    )
    assert [row["reward"] for row in rows] == [1.0, None]
    assert rows[0]["agent_id"] == "support"
    assert rows[0]["task"] == "refund"
    assert rows[0]["input"][0]["content"] == "question 1"
    assert rows[0]["output"]["content"] == "an answer"
    assert rows[0]["timestamp"].startswith("2023-11-14T")


def test_export_of_rewarded_traffic_leaves_silence_out(redis: Redis, tmp_path: Path) -> None:
    store = Store(redis)
    transition(1, -0.5, store)
    transition(2, None, store)
    target = tmp_path / "traffic.jsonl"
    runner.invoke(cli.app, ["export", "--rewarded", str(target)])
    assert len(target.read_bytes().splitlines()) == 1


def test_status_shows_the_average_only_of_what_was_rewarded(redis: Redis) -> None:
    store = Store(redis)
    transition(1, 1.0, store)
    transition(2, None, store)
    shown = runner.invoke(cli.app, ["status"]).output
    assert "+1.000" in shown
    assert "not running" in shown


def test_status_shows_what_the_trainer_says_of_itself(redis: Redis) -> None:
    redis.set(keys.status("policy"), orjson.dumps({"state": "training"}))
    assert "training" in runner.invoke(cli.app, ["status"]).output


def a_running_trainer(redis: Redis, run: dict[str, object]) -> threading.Thread:
    """Says that it runs, and ends the next round it is asked for as `run`."""
    redis.set(keys.status("policy"), orjson.dumps({"state": "collecting", "note": ""}))

    def serve() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            asked = redis.getdel(keys.trigger("policy"))
            if asked:
                ended = {**run, "run_id": orjson.loads(asked)["run_id"]}
                redis.lpush(keys.runs("policy"), orjson.dumps(ended))
                return
            time.sleep(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_train_beside_a_running_trainer_has_it_do_a_round(redis: Redis) -> None:
    ended = {"phase": "promoted", "version": 3, "reason": "", "attempts": 1}
    trainer = a_running_trainer(redis, ended)
    result = runner.invoke(cli.app, ["train"])
    trainer.join()
    assert result.exit_code == 0
    assert "promoted: policy@3" in result.output


def test_train_with_too_little_to_learn_from_says_what_is_lacking(redis: Redis) -> None:
    lack = "2 usable rewarded trajectories of 64"
    ended = {"phase": "failed", "version": None, "reason": lack, "attempts": 0}
    trainer = a_running_trainer(redis, ended)
    result = runner.invoke(cli.app, ["train"])
    trainer.join()
    assert result.exit_code == training.NOT_ENOUGH
    assert lack in result.output


def test_a_wrong_setting_is_one_line_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_TRAINER_RANK", "many")
    shown = subprocess.run(
        [sys.executable, "-m", "ratchet.cli", "status"], capture_output=True, text=True
    )
    assert shown.returncode == 1
    assert "trainer.rank" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_help_does_not_wait_for_heavy_imports() -> None:
    program = (
        "import sys; from ratchet import cli\n"
        "assert not {'torch', 'vllm', 'fastapi', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "log.jsonl", "--base", "model"], "--from needs --out"),
        (["--base", "model"], "--base goes with --from"),
        (["--version", "3"], "--version goes with --from"),
        (["--skip-bad"], "--skip-bad goes with --from"),
        (["--keep-on", "--dry-run"], "--keep-on goes on without end"),
        (["--keep-on", "--agent", "planner"], "--agent and --force are of one round"),
        (["--keep-on", "--force"], "--agent and --force are of one round"),
        (["--from", "log.jsonl", "--dry-run", "--data-dir", "d"], "--data-dir goes with the log"),
    ],
)
def test_train_says_which_options_belong_together(arguments: list[str], said: str) -> None:
    result = runner.invoke(cli.app, ["train", *arguments])
    assert result.exit_code == 1
    assert said in str(result.exception)
