"""A gateway that runs: started, asked until it answers, measured, stopped."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway_bench import traffic
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.gauges import Gauge, die_with_us, measure
from benchmarks.gateway_bench.peers import KEY, Launch
from benchmarks.gateway_bench.ports import wait_for_port
from benchmarks.gateway_bench.wire import run_load

START_SECONDS = 120.0
STOP_SECONDS = 10.0
SETTLE_SECONDS = 0.2


@dataclass
class Running:
    """One gateway, or none (`direct`: the clients ask the upstream itself)."""

    name: str
    port: int
    launch: Launch
    server: "subprocess.Popen[bytes] | None" = None

    def gauge(self) -> Gauge:
        """CPU and memory of its process tree; nothing where there is no gateway."""
        return Gauge(0, 0, 0) if self.server is None else measure(self.server.pid)

    def request(self, scenario: traffic.Scenario) -> bytes:
        """What a client of it sends."""
        return traffic.request(
            scenario, model=self.launch.model, api_key=KEY, headers=self.launch.headers
        )

    def settle(self, requests: int) -> None:
        """Wait until the work of `requests` answered calls is done, whatever follows an answer."""
        time.sleep(SETTLE_SECONDS)

    def check(self) -> None:
        """Raises BenchmarkError when it has died."""
        if self.server is not None and self.server.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with status {self.server.returncode}")


@contextmanager
def started(name: str, launch: Launch, *, port: int, folder: Path) -> Iterator[Running]:
    """Run a gateway; its output goes to `folder`/log. Raises BenchmarkError when that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in launch.files.items():
        (folder / file).write_text(content)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            launch.command,
            env={**os.environ, **launch.environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_us,
            start_new_session=True,  # Ctrl-C is ours; and its children go with it
        )
    try:
        wait_for_port(port, server, seconds=START_SECONDS)
        yield Running(name, port, launch, server)
    except BenchmarkError as error:
        raise BenchmarkError(f"{name}: {error}; its log ends: {_tail(folder / 'log')}") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_it_answers(gateway: Running, program: Path, *, seconds: float = 60) -> None:
    """Ask until a whole answer comes back right. Raises BenchmarkError with what came instead."""
    scenario = traffic.scenario_named("json", 0)
    deadline = time.monotonic() + seconds
    while True:
        gateway.check()
        found = run_load(
            program,
            gateway.request(scenario),
            port=gateway.port,
            clients=1,
            is_stream=False,
            requests=1,
            limit_seconds=30,
        )
        if not found.errors:
            gateway.settle(1)
            return
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{gateway.name} does not answer: {found.first_error}")
        time.sleep(0.5)


def _tail(path: Path, characters: int = 600) -> str:
    return path.read_text(errors="replace")[-characters:].strip()
