"""The C program at both ends: compiled on first use, run as upstream and as load."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.gauges import die_with_us
from benchmarks.gateway_bench.ports import free_port, wait_for_port

SOURCE = Path(__file__).parent.parent / "wire.c"


@dataclass(frozen=True, slots=True)
class Load:
    """What the load client saw. `first_*` is the time to the first byte of a body."""

    count: int
    errors: int
    seconds: float
    rps: float
    p50_us: float
    p99_us: float
    first_p50_us: float
    first_p99_us: float
    chunks: int
    reads: int
    bytes: int
    first_error: str


def compiled(cache: Path) -> Path:
    """The program, compiled unless this very source was already. Raises BenchmarkError."""
    source = SOURCE.read_bytes()
    program = cache / f"wire-{hashlib.sha256(source).hexdigest()[:16]}"
    if program.is_file():
        return program
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise BenchmarkError(
            "no C compiler: benchmarks/wire.c has to be compiled; install gcc or clang"
            " (Debian: apt-get install gcc libc6-dev)"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "wire"
        found = subprocess.run(
            [compiler, "-O2", "-o", str(made), str(SOURCE)],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode:
            raise BenchmarkError(f"{compiler} does not compile {SOURCE}:\n{found.stderr}")
        os.replace(made, program)
    return program


@contextmanager
def upstream(program: Path, *, tokens: int | None = None) -> Iterator[int]:
    """The scripted upstream, running; its port. Its answers have `tokens`, by default 89: 1 KB."""
    port = free_port()
    words = [] if tokens is None else ["--tokens", str(tokens)]
    server = subprocess.Popen(
        [program, "serve", "--port", str(port), *words], preexec_fn=die_with_us
    )
    try:
        wait_for_port(port, server, seconds=10)
        yield port
    finally:
        server.kill()
        server.wait()


def run_load(
    program: Path,
    request: bytes,
    *,
    port: int,
    clients: int,
    is_stream: bool,
    seconds: float = 0,
    requests: int = 0,
    events: int = 1,
    limit_seconds: float = 120,
) -> Load:
    """Send `request` for `seconds`, or `requests` times. Raises BenchmarkError.

    A stream with fewer than `events` events is an error of the gateway's, and
    so is an answer that does not come within `limit_seconds`.
    """
    with tempfile.NamedTemporaryFile(prefix="request-") as file:
        file.write(request)
        file.flush()
        command: list[str] = [
            str(program), "load",
            "--port", str(port),
            "--request", file.name,
            "--clients", str(clients),
            "--events", str(events),
            "--limit", str(limit_seconds),
            *(["--requests", str(requests)] if requests else ["--seconds", str(seconds)]),
            *(["--stream"] if is_stream else []),
        ]  # fmt: skip
        found = subprocess.run(
            command, capture_output=True, text=True, check=False, preexec_fn=die_with_us
        )
    return _seen(found)


def queue_command(
    program: Path, queue: Path, *, port: int, clients: int, rate: float, limit_seconds: float
) -> list[str]:
    """The command that sends each request of `queue` once, `rate` a second."""
    return [
        str(program), "load",
        "--port", str(port),
        "--queue", str(queue),
        "--clients", str(clients),
        "--rate", str(rate),
        "--limit", str(limit_seconds),
    ]  # fmt: skip


def run_queue(
    program: Path, queue: Path, *, port: int, clients: int, rate: float, limit_seconds: float
) -> Load:
    """Send what stands in `queue`; raises BenchmarkError. Late ones are sent as soon as possible.

    Each request stands behind its length in four bytes, little-endian.
    """
    command = queue_command(
        program, queue, port=port, clients=clients, rate=rate, limit_seconds=limit_seconds
    )
    return _seen(
        subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=die_with_us)
    )


def _seen(found: "subprocess.CompletedProcess[str]") -> Load:
    if found.returncode:
        raise BenchmarkError(f"the load client failed: {found.stderr.strip()}")
    return Load(**json.loads(found.stdout))
