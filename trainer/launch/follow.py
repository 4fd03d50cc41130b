"""A further machine's part in a round: it watches the first one's runs, and starts its own share.

All machines see the same directories at the same paths: the runs, and the base
model. What the loop on the first machine writes is all that is needed: a run
that is collected and not trained, and how often its training was started.
"""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from trainer.launch.configs import find_launch
from trainer.runs import Phase, RunDirectory, all_runs
from trajectories.errors import SettingsError
from trajectories.settings import TrainerSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
STOP_SECONDS = 10.0

Started = tuple[str, int]  # a run, and which start of its training


def follow(
    runs_dir: Path,
    settings: TrainerSettings,
    *,
    number: int,
    stop: threading.Event,
    module: str,
) -> None:
    """Start machine `number`'s share of each round until `stop`. Raises SettingsError."""
    if settings.launch is None:
        raise SettingsError("trainer.launch is not set: there is nothing that a machine could join")
    launch = find_launch(settings.launch, settings.launch_arguments)
    if not 0 < number < launch.machines:
        raise SettingsError(
            f"{settings.launch} is for {launch.machines} machines, the first of which runs the"
            f" trainer: number {number} is not one of the others"
        )
    joined: set[Started] = set()
    while not stop.is_set():
        for directory, start in due(runs_dir, joined):
            joined.add(start)
            logger.info("machine %d joins %s", number, start[0])
            status = take_part(directory, settings, number=number, stop=stop, module=module)
            logger.info("machine %d ended its share with %d", number, status)
        stop.wait(LOOK_SECONDS)


def due(runs_dir: Path, joined: set[Started]) -> list[tuple[RunDirectory, Started]]:
    """Runs whose training was started on the first machine and not joined here."""
    found = []
    for directory in all_runs(runs_dir):
        run = directory.read()
        start = (run.run_id, run.attempts)
        is_training = run.phase is Phase.COLLECTED and run.attempts and directory.result() is None
        if is_training and start not in joined:
            found.append((directory, start))
    return found


def take_part(
    directory: RunDirectory,
    settings: TrainerSettings,
    *,
    number: int,
    stop: threading.Event,
    module: str,
) -> int:
    """This machine's share of one round, from its start to its end: its exit status."""
    assert settings.launch is not None
    command = [sys.executable, "-m", "trainer.launch", str(directory.path)]
    command += ["--config", settings.launch, "--machine", str(number), "--module", module]
    command += [f"--argument={argument}" for argument in settings.launch_arguments]
    share = subprocess.Popen([*command, "--parent", str(os.getpid())])
    while share.poll() is None:
        if stop.wait(LOOK_SECONDS):
            share.terminate()
            try:
                share.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                share.kill()
    return share.wait()
