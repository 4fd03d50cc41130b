"""The configurations of `accelerate launch` that come along, and how one is found by name.

`trainer.launch` is one of their names or the path of a file that
`accelerate config` wrote. What it cannot know (how many GPUs this machine
has) is filled in here, unless `trainer.launch_arguments` says it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from trajectories.errors import SettingsError

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Launch:
    """One way to start a round."""

    file: Path
    arguments: tuple[str, ...]  # more of `accelerate launch`
    is_cpu: bool
    processes: int = 0  # all in all; 0: what this machine has
    machines: int = 1
    machine: int = 0  # which of them this one is
    address: str = "127.0.0.1"  # of the first one
    port: int = 29_500

    def on_machine(self, number: int) -> "Launch":
        """The same, on the machine with this number, from 0."""
        return replace(self, machine=number)

    def check_start(self) -> None:
        """Refuse a pattern: nobody has the address in it. Raises SettingsError."""
        if self.machines > 1 and self.file.parent == HERE:
            raise SettingsError(
                f"trainer.launch: {self.file.name} is a pattern, and {self.address} stands for your"
                f" first machine: copy {self.file}, write your own numbers and address into the"
                " copy, and name that file"
            )

    def command(self, module: str, *, gpus: int) -> list[str]:
        """The arguments of `accelerate launch`; `gpus` is how many this machine shows."""
        counted = () if self._is_counted else ("--num_processes", str(max(1, gpus)))
        which = ("--machine_rank", str(self.machine)) if self.machines > 1 else ()
        return ["--config_file", str(self.file), *counted, *which, *self.arguments, "-m", module]

    def torchrun(self) -> list[str]:
        """The arguments of torchrun for a launch on CPUs, which accelerate has no word for."""
        count = ["--nproc-per-node", str(max(1, self.processes // self.machines))]
        where = ["--standalone"]
        if self.machines > 1:
            where = ["--nnodes", str(self.machines), "--node-rank", str(self.machine)]
            where += ["--master-addr", self.address, "--master-port", str(self.port)]
        return [*where, *count, *self.arguments]

    @property
    def is_alone(self) -> bool:
        """Whether it is one process, on whatever machine."""
        return self.processes == 1 and "--num_processes" not in self.arguments

    @property
    def _is_counted(self) -> bool:
        return self.processes > 0 or "--num_processes" in self.arguments


def built_in() -> tuple[str, ...]:
    """The names of the configurations that come along."""
    return tuple(sorted(path.stem for path in HERE.glob("*.yaml")))


def find_launch(name_or_path: str, arguments: Sequence[str] = ()) -> Launch:
    """The configuration of that name, or at that path. Raises SettingsError."""
    names = built_in()
    file = HERE / f"{name_or_path}.yaml" if name_or_path in names else Path(name_or_path)
    if not file.is_file():
        raise SettingsError(
            f"trainer.launch is {name_or_path!r}: neither a file nor one of {', '.join(names)}"
        )
    try:
        content: Any = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"trainer.launch: {file} cannot be read: {error}") from error
    if not isinstance(content, dict) or "distributed_type" not in content:
        raise SettingsError(
            f"trainer.launch: {file} is no configuration of accelerate: it has no"
            " distributed_type (write one with: accelerate config --config_file FILE)"
        )
    return Launch(
        file=file.resolve(),
        arguments=tuple(arguments),
        is_cpu=bool(content.get("use_cpu")),
        processes=int(content.get("num_processes", 0)),
        machines=int(content.get("num_machines", 1)),
        machine=int(content.get("machine_rank", 0)),
        address=str(content.get("main_process_ip") or "127.0.0.1"),
        port=int(content.get("main_process_port") or 29_500),
    )
