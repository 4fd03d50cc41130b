"""Two ranks under the real launcher: killed or stopped, nothing of a round is left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[3]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal to orphans")
def test_a_killed_trainer_takes_launcher_and_ranks_along(tmp_path: Path) -> None:
    """-9 to what started the launcher: here a shell that stands for the loop."""
    launch = (
        f"{sys.executable} -m trainer.launch {tmp_path} --parent $$ --config cpu"
        " --module tests.trainer.launch.sleeping_rank & echo $!; wait"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    loop = subprocess.Popen(["bash", "-c", launch], stdout=subprocess.PIPE, env=environment)
    try:
        assert loop.stdout is not None
        launcher = int(loop.stdout.readline())
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("rank?"))) < 2 or not all(
            path.read_text() for path in tmp_path.glob("rank?")
        ):
            assert time.monotonic() < deadline
            assert is_alive(launcher)
            time.sleep(0.05)
        family = [launcher, *(int(path.read_text()) for path in tmp_path.glob("rank?"))]
        assert len(family) == 3
    finally:
        loop.send_signal(signal.SIGKILL)
        loop.wait()
        if loop.stdout is not None:
            loop.stdout.close()
    deadline = time.monotonic() + 15
    while any(is_alive(pid) for pid in family):
        assert time.monotonic() < deadline, "an orphan trains on"
        time.sleep(0.05)
