"""The training process, seen from the loop: started, watched, stopped.

One process per round, because TRL cannot train two PEFT models in one, and
because memory and a crash stay in it; with `trainer.launch` a launcher, and
one process per rank below it. They die with their parent, so no orphan trains
on. What they did is judged by the files they leave, never by memory.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from trainer.launch.configs import find_launch
from trainer.runs import LOG, RunDirectory
from trajectories.settings import TrainerSettings

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "trainer.round")
LAUNCHER = (sys.executable, "-m", "trainer.launch")
STOP_SECONDS = 10.0
REASON_CHARACTERS = 300


class Training:
    """At most one running training process."""

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command  # None: what the run's own settings ask for
        self._environment = environment  # None: this process's own
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def start(self, directory: RunDirectory) -> None:
        """Train the run in `directory`, from its last checkpoint if there is one."""
        command = self._command or command_for(directory.plan().trainer)
        with (directory.path / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*command, str(directory.path), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        logger.info("training started", extra={"run": directory.path.name})

    def poll(self) -> int | None:
        """The exit status once it has ended, else None. Forgets an ended process."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            self._process = None
        return status

    def stop(self) -> None:
        """End the process; its rows and checkpoints stay for the next start."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def command_for(settings: TrainerSettings) -> tuple[str, ...]:
    """What starts a round: itself, or the launcher of several. Raises SettingsError."""
    if settings.launch is None:
        return COMMAND
    find_launch(settings.launch).check_start()
    arguments = (f"--argument={argument}" for argument in settings.launch_arguments)
    return (*LAUNCHER, "--config", settings.launch, *arguments)


def last_words(directory: RunDirectory) -> str:
    """The end of the training's log, for the reason of a failure."""
    try:
        lines = (directory.path / LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][-REASON_CHARACTERS:] if lines else ""
