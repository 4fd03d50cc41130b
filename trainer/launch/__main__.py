"""The launcher: `python -m trainer.launch RUN_DIR --parent PID --config NAME [--argument=ARG ...]`.

Starts `trainer.round` once per process and ends with the last of them; its
status is theirs. It is a process of its own between the loop and the ranks, so
that each rank has a parent to die with.
"""

import argparse
import os
import sys
from pathlib import Path

from trainer.launch.configs import Launch, find_launch
from trainer.orphan import die_with

ROUND = "trainer.round"


def main() -> int:
    """Launch and wait."""
    parser = argparse.ArgumentParser(prog="trainer.launch")
    parser.add_argument("run", type=Path)
    parser.add_argument("--parent", type=int, default=0, help="process id that must stay alive")
    parser.add_argument(
        "--config", required=True, help="name or path of accelerate's configuration"
    )
    parser.add_argument("--argument", action="append", default=[], help="one more of accelerate's")
    parser.add_argument("--module", default=ROUND, help="what each process runs")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    launch = find_launch(arguments.config, arguments.argument)
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
    where = [] if launch.machines > 1 else ["--standalone"]
    count = ["--nproc-per-node", str(launch.processes // launch.machines)]
    torchrun([*where, *count, *launch.arguments, "-m", *ranks])


if __name__ == "__main__":
    sys.exit(main())
