"""Two machines in a round: the second finds out by the files of the first, and starts its share."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainer.launch.follow import due, follow
from trainer.runs import RESULT, Phase, Run, RunDirectory
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings

ROOT = Path(__file__).parents[3]


def a_run(
    runs_dir: Path, name: str, phase: Phase = Phase.COLLECTED, attempts: int = 1
) -> RunDirectory:
    directory = RunDirectory(runs_dir / name)
    directory.path.mkdir(parents=True)
    run = Run(
        run_id=name,
        policy="policy",
        algorithm="grpo",
        phase=phase,
        started_at=1.0,
        updated_at=1.0,
        parent=0,
        attempts=attempts,
    )
    directory.write(run)
    return directory


def test_a_start_is_joined_once_and_a_second_start_again(tmp_path: Path) -> None:
    directory = a_run(tmp_path, "run_1")
    a_run(tmp_path, "run_2", Phase.TRAINED)
    a_run(tmp_path, "run_3", attempts=0)
    assert [start for _, start in due(tmp_path, set())] == [("run_1", 1)]
    assert due(tmp_path, {("run_1", 1)}) == []
    directory.write(directory.read(), attempts=2)
    assert [start for _, start in due(tmp_path, {("run_1", 1)})] == [("run_1", 2)]
    (directory.path / RESULT).write_bytes(b'{"is_trained": true}')
    assert due(tmp_path, set()) == []


@pytest.mark.parametrize("number", [0, 2])
def test_a_machine_that_the_configuration_does_not_know_is_refused(
    number: int, tmp_path: Path
) -> None:
    settings = TrainerSettings(launch="nodes")
    with pytest.raises(SettingsError, match=f"number {number} is not one of the others"):
        follow(tmp_path, settings, number=number, stop=threading.Event(), module="m")


def test_without_a_launch_there_is_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"trainer\.launch is not set"):
        follow(tmp_path, TrainerSettings(), number=1, stop=threading.Event(), module="m")


def test_two_machines_form_one_world(tmp_path: Path) -> None:
    """Two launchers on this machine stand for two, by torchrun's own rendezvous."""
    pytest.importorskip("torch")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "two.yaml"
    config.write_text(
        "distributed_type: MULTI_CPU\nuse_cpu: true\nnum_machines: 2\nnum_processes: 2\n"
        f"main_process_ip: 127.0.0.1\nmain_process_port: {port}\n"
    )
    directory = a_run(tmp_path / "data" / "runs", "run_1")
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
