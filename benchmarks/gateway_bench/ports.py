"""Free ports, and waiting until somebody listens."""

import socket
import subprocess
import time

from benchmarks.gateway_bench.errors import BenchmarkError


def free_port() -> int:
    """A port nobody listens on, for now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, owner: "subprocess.Popen[bytes]", *, seconds: float) -> None:
    """Until `port` takes connections. Raises BenchmarkError when it does not, or `owner` ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if owner.poll() is not None:
            raise BenchmarkError(f"it ended with status {owner.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(f"nothing listened on its port within {seconds:.0f} s")
