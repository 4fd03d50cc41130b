"""CPU time and memory of a process and all its descendants, from /proc; and files for many."""

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Gauge:
    """Of a whole tree. Memory that several of its processes share is counted once for each."""

    cpu_seconds: float
    rss_mb: float
    count: int


def parse_stat(text: str) -> tuple[int, int]:
    """Parent, and clock ticks of CPU with those of children it has reaped, of /proc/PID/stat."""
    # The name, in brackets, may itself hold brackets and spaces.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), sum(map(int, fields[11:15]))


def tree(root: int, parents: dict[int, int]) -> set[int]:
    """`root` and its descendants, given the parent of every process."""
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def measure(root: int) -> Gauge:
    """The tree below `root` now. Processes that are gone meanwhile are in their parent's sum."""
    stats: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                stats[int(entry.name)] = parse_stat((entry / "stat").read_text())
    members = tree(root, {pid: parent for pid, (parent, _) in stats.items()}) & set(stats)
    pages = 0
    for pid in members:
        with contextlib.suppress(OSError, ValueError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Gauge(
        cpu_seconds=sum(stats[pid][1] for pid in members) / _TICKS_PER_SECOND,
        rss_mb=pages * _PAGE_BYTES / 1e6,
        count=len(members),
    )


def peak_rss_mb(pid: int) -> float:
    """The most memory one process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def die_with_us() -> None:
    """In a fresh child: be killed when the benchmark dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def allow_many_files(wanted: int = 16_384) -> None:
    """Raise the limit of open files, which children inherit, as far as it may be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
