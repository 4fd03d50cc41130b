"""The launcher: `python -m trainer.launch RUN_DIR --parent PID --config NAME [--argument=ARG ...]`.

Starts `trainer.round` once per process and ends with the last of them; its
status is theirs. It is a process of its own between the loop and the ranks, so
that each rank has a parent to die with.

On every further machine: `python -m trainer.launch --follow NUMBER`, which
starts that machine's share of each round (follower.py), as the round's own plan has it launched.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.launch.configs import Launch, find_launch
from trainer.orphan import die_with

ROUND = "trainer.round"


def main() -> int:
    """Launch and wait, or follow."""
    parser = argparse.ArgumentParser(prog="trainer.launch")
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--parent", type=int, default=0, help="process id that must stay alive")
    parser.add_argument("--config", help="name or path of accelerate's configuration")
    parser.add_argument("--argument", action="append", default=[], help="one more of accelerate's")
    parser.add_argument("--machine", type=int, help="which one this is, from 0")
    parser.add_argument("--module", default=ROUND, help="what each process runs")
    parser.add_argument("--follow", type=int, metavar="NUMBER", help="be this machine, from 1 on")
    parser.add_argument("--policy", action="append", default=[], help="follow only its rounds")
    arguments = parser.parse_args()
    if arguments.follow is not None:
        return follow_by_settings(arguments.follow, arguments.module, arguments.policy)
    if arguments.run is None or arguments.config is None:
        parser.error("a run's directory and --config are needed, or --follow")
    die_with(arguments.parent)
    launch = find_launch(arguments.config, arguments.argument)
    if arguments.machine is not None:
        launch = launch.on_machine(arguments.machine)
    ranks = [str(arguments.run), "--parent", str(os.getpid())]
    if launch.is_cpu:
        start_on_cpu(launch, [arguments.module, *ranks])
    else:
        start(launch, arguments.module, ranks)
    return 0


def start(launch: Launch, module: str, ranks: list[str]) -> None:
    """Hand over to `accelerate launch`."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.cuda import device_count

    command = launch.command(module, gpus=device_count())
    launch_command(launch_command_parser().parse_args([*command, *ranks]))


def start_on_cpu(launch: Launch, ranks: list[str]) -> None:
    """Several processes on CPUs: accelerate itself would want MPI, so torchrun starts them."""
    from torch.distributed.run import main as torchrun

    os.environ["ACCELERATE_USE_CPU"] = "true"
    torchrun([*launch.torchrun(), "-m", *ranks])


def follow_by_settings(number: int, module: str, policies: Sequence[str]) -> int:
    """Follow the trainer on the first machine until a signal. 2: the settings are wrong."""
    from trainer.launch.follower import check_number, follow
    from trajectories.errors import SettingsError
    from trajectories.settings import load_settings
    from trajectories.signals import stop_on_signals

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = stop_on_signals()
    try:
        settings = load_settings()
        names = policies or settings.policy_names
        check_number(number, [settings.for_policy(name).trainer for name in names])
        follow(settings.runs_dir, number=number, stop=stop, module=module, policies=policies)
    except SettingsError as error:
        logging.getLogger("trainer.launch").critical("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
