"""Two machines in a round: the second finds out by the files of the first, and starts its share."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from trainer.launch.follower import check_number, due, is_for, take_part
from trainer.runs import PLAN, RESULT, Phase, Plan, Run, RunDirectory
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings

ROOT = Path(__file__).parents[3]


def a_run(
    runs_dir: Path,
    name: str,
    phase: Phase = Phase.COLLECTED,
    attempts: int = 1,
    policy: str = "policy",
    launch: str | None = None,
) -> RunDirectory:
    directory = RunDirectory(runs_dir / name)
    directory.path.mkdir(parents=True)
    plan = Plan(
        run_id=name,
        policy=policy,
        algorithm="grpo",
        base_path="base",
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(launch=launch),
        refs=(),
    )
    (directory.path / PLAN).write_bytes(plan.to_json())
    run = Run(
        run_id=name,
        policy=policy,
        algorithm="grpo",
        phase=phase,
        started_at=1.0,
        updated_at=1.0,
        parent=0,
        attempts=attempts,
    )
    directory.write(run)
    return directory


def two_machines(directory: Path) -> Path:
    """A configuration for two machines with a process each, both of them this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = directory / "two.yaml"
    config.write_text(
        "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 2\nnum_processes: 2\n"
        f"main_process_ip: 127.0.0.1\nmain_process_port: {port}\n"
    )
    return config


def test_a_start_is_joined_once_and_a_second_start_again(tmp_path: Path) -> None:
    directory = a_run(tmp_path, "run_1")
    a_run(tmp_path, "run_2", Phase.TRAINED)
    a_run(tmp_path, "run_3", attempts=0)
    assert [start for _, start in due(tmp_path, set())] == [("run_1", 1)]
    assert due(tmp_path, {("run_1", 1)}) == []
    directory.write(directory.read(), attempts=2)
    assert [start for _, start in due(tmp_path, {("run_1", 1)})] == [("run_1", 2)]
    assert due(tmp_path, set(), ["planner"]) == [], "another policy's"
    (directory.path / RESULT).write_bytes(b'{"is_trained": true}')
    assert due(tmp_path, set()) == []


def test_a_run_says_itself_whether_it_is_for_several_machines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = str(two_machines(tmp_path))
    launches = {"alone": None, "gpus": "ddp", "two": two, "gone": str(tmp_path / "gone.yaml")}
    runs = {name: a_run(tmp_path, name, launch=launch) for name, launch in launches.items()}
    assert {name: is_for(run, 1) for name, run in runs.items()} == {
        "alone": False,
        "gpus": False,
        "two": True,
        "gone": False,
    }
    assert not is_for(runs["two"], 2)
    assert "gone cannot be joined: trainer.launch is" in caplog.text


@pytest.mark.parametrize("number", [0, 2])
def test_a_machine_that_no_configuration_knows_is_refused(number: int) -> None:
    settings = [TrainerSettings(), TrainerSettings(launch="nodes"), TrainerSettings(launch="ddp")]
    with pytest.raises(SettingsError, match=f"number {number} is not one of the others"):
        check_number(number, settings)
    check_number(1, settings)


def test_without_a_launch_there_is_nothing_to_follow() -> None:
    with pytest.raises(SettingsError, match=r"trainer\.launch is not set"):
        check_number(1, [TrainerSettings()])


@pytest.mark.parametrize("end", [{"attempts": 2}, {"phase": Phase.FAILED}])
def test_a_share_ends_with_the_start_that_it_belongs_to(
    end: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine is gone: nobody would ever come to the meeting point."""
    monkeypatch.setattr("trainer.launch.follower.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("trainer.launch.follower.GRACE_SECONDS", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    directory = a_run(tmp_path, "run_1", launch=str(two_machines(tmp_path)))
    directory.write(directory.read(), **end)
    stop = threading.Event()
    assert take_part(directory, ("run_1", 1), number=1, stop=stop, module="m") != 0


def test_two_machines_form_one_world_and_leave_other_rounds_alone(tmp_path: Path) -> None:
    """Two launchers on this machine stand for two, by torchrun's own rendezvous."""
    pytest.importorskip("torch")
    config = two_machines(tmp_path)
    planners = a_run(tmp_path / "data" / "runs", "run_0", policy="planner")
    directory = a_run(tmp_path / "data" / "runs", "run_1", launch=str(config))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RATCHET_DATA_DIR": str(tmp_path / "data"),
        "RATCHET_TRAINER_LAUNCH": str(config),
    }
    module = ["--module", "tests.trainer.launch.counted_rank"]
    launcher = [sys.executable, "-m", "trainer.launch"]
    first = subprocess.Popen(
        [*launcher, str(directory.path), "--config", str(config), *module], env=environment
    )
    second = subprocess.Popen([*launcher, "--follow", "1", *module], env=environment)
    try:
        assert first.wait(120) == 0
        second.terminate()
        assert second.wait(60) == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    ranks = {path.name: path.read_text() for path in directory.path.glob("rank?")}
    assert ranks == {"rank0": "2", "rank1": "2"}
    assert not list(planners.path.glob("rank?")), "its settings say one process"


def test_processes_of_different_rounds_do_not_train_together(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    launcher = [sys.executable, "-m", "trainer.launch", str(tmp_path), "--config", "cpu"]
    subprocess.run(
        [*launcher, "--module", "tests.trainer.launch.strange_rank"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    said = {path.name: path.read_text() for path in tmp_path.glob("rank?")}
    words = "processes of different rounds met: start 1 of run_0, start 1 of run_1"
    assert said == {"rank0": words, "rank1": words}
