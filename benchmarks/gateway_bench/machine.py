"""What a figure was measured on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Processor, cores this process may use, memory, system."""

    processor: str
    cores: int
    memory_gb: float
    system: str


def this_machine() -> Machine:
    """From /proc."""
    return Machine(
        processor=processor_name(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        system=f"Linux {platform.release()}, Python {platform.python_version()}",
    )


def processor_name(cpuinfo: str) -> str:
    """The model's name in /proc/cpuinfo, else the architecture."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
