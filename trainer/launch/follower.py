"""A further machine's part in a round: it watches the first one's runs, and starts its own share.

All machines see the same directories at the same paths: the runs, and the base
model. What the loop on the first machine writes is all that is needed: a run
that is collected and not trained, how often its training was started, and in
its plan how it is launched. A share ends with the start that it belongs to, so
that it never meets the next round at the same address.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path

from trainer.launch.configs import Launch, find_launch
from trainer.runs import Phase, Run, RunDirectory, all_runs
from trajectories.errors import RecordError, SettingsError
from trajectories.settings import TrainerSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
GRACE_SECONDS = 30.0  # for a share to end by itself once its round is trained
STOP_SECONDS = 10.0

Started = tuple[str, int]  # a run, and which start of its training


def check_number(number: int, settings: Collection[TrainerSettings]) -> None:
    """Raise SettingsError unless some policy is trained on so many machines."""
    launches = {own.launch: own.launch_arguments for own in settings if own.launch is not None}
    if not launches:
        raise SettingsError("trainer.launch is not set: there is nothing that a machine could join")
    found = {name: find_launch(name, arguments).machines for name, arguments in launches.items()}
    if not any(0 < number < machines for machines in found.values()):
        name, machines = max(found.items(), key=lambda item: item[1])
        raise SettingsError(
            f"{name} is for {machines} machines, the first of which runs the"
            f" trainer: number {number} is not one of the others"
        )


def follow(
    runs_dir: Path,
    *,
    number: int,
    stop: threading.Event,
    module: str,
    policies: Collection[str] = (),
) -> None:
    """Start machine `number`'s share of each round of `policies` (none: all) until `stop`."""
    seen: set[Started] = set()
    while not stop.is_set():
        for directory, start in due(runs_dir, seen, policies):
            seen.add(start)
            if is_for(directory, number):
                logger.info("machine %d joins start %d of %s", number, start[1], start[0])
                status = take_part(directory, start, number=number, stop=stop, module=module)
                logger.info("machine %d ended its share with %d", number, status)
                break  # what else was due may be over by now
        stop.wait(LOOK_SECONDS)


def due(
    runs_dir: Path, seen: Collection[Started], policies: Collection[str] = ()
) -> list[tuple[RunDirectory, Started]]:
    """Starts of a training that go on and were not looked at before."""
    found = []
    for directory in all_runs(runs_dir):
        run = directory.read()
        start = start_of(directory, run)
        if start is not None and start not in seen and run.policy in (policies or (run.policy,)):
            found.append((directory, start))
    return found


def start_of(directory: RunDirectory, run: Run) -> Started | None:
    """The start of its training that goes on, if one does."""
    if run.phase is not Phase.COLLECTED or not run.attempts or directory.result() is not None:
        return None
    return run.run_id, run.attempts


def is_for(directory: RunDirectory, number: int) -> bool:
    """Whether the run is launched on so many machines that this is one of them."""
    try:
        launch = launch_of(directory)
    except SettingsError as error:
        logger.error("%s cannot be joined: %s", directory.path.name, error)  # noqa: TRY400
        return False
    return launch is not None and 0 < number < launch.machines


def launch_of(directory: RunDirectory) -> Launch | None:
    """How the run's own settings have it launched; None: it is one process."""
    settings = directory.plan().trainer
    if settings.launch is None:
        return None
    return find_launch(settings.launch, settings.launch_arguments)


def take_part(
    directory: RunDirectory,
    start: Started,
    *,
    number: int,
    stop: threading.Event,
    module: str,
) -> int:
    """This machine's share of one start, ended with it at the latest: its exit status."""
    settings = directory.plan().trainer
    assert settings.launch is not None
    command = [sys.executable, "-m", "trainer.launch", str(directory.path)]
    command += ["--config", settings.launch, "--machine", str(number), "--module", module]
    command += [f"--argument={argument}" for argument in settings.launch_arguments]
    share = subprocess.Popen([*command, "--parent", str(os.getpid())])
    looks_left = GRACE_SECONDS / LOOK_SECONDS
    while share.poll() is None:
        is_stopped = stop.wait(LOOK_SECONDS)
        now = _going_on(directory)
        if now is None:
            looks_left -= 1
        if is_stopped or now not in (start, None) or looks_left < 0:
            logger.info("start %d of %s is over", start[1], start[0])
            _end(share)
    return share.wait()


def _going_on(directory: RunDirectory) -> Started | None:
    try:
        return start_of(directory, directory.read())
    except (OSError, RecordError):  # somebody tidied up
        return None


def _end(share: subprocess.Popen[bytes]) -> None:
    share.terminate()
    try:
        share.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        share.kill()
