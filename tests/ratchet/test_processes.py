"""The supervisor: lines, restarts, orderly stops, no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from ratchet.processes import ProcessSpec, Supervisor

PYTHON = sys.executable


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split(")")[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_line_arrives_with_the_name_of_its_process() -> None:
    lines: list[tuple[str, str]] = []
    specs = [
        ProcessSpec(name, [PYTHON, "-c", f"print('hello from {name}')"]) for name in ("one", "two")
    ]
    supervisor = Supervisor(specs, lambda name, line: lines.append((name, line)))
    supervisor.start()
    wait_for(lambda: len(lines) == 2)
    supervisor.stop()
    assert sorted(lines) == [("one", "hello from one"), ("two", "hello from two")]


def test_a_process_that_dies_is_started_again() -> None:
    sleeper = ProcessSpec("sleeper", [PYTHON, "-c", "import time; time.sleep(60)"])
    supervisor = Supervisor([sleeper], lambda _name, _line: None)
    supervisor.start()
    child = supervisor["sleeper"]
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: (supervisor.supervise(), child.restarts == 1)[1])
    assert child.pid != first
    supervisor.stop()


def test_stopping_lets_a_process_finish_and_kills_one_that_will_not() -> None:
    lines: list[str] = []
    polite = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    stubborn = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    supervisor = Supervisor(
        [
            ProcessSpec("polite", [PYTHON, "-c", polite]),
            ProcessSpec("stubborn", [PYTHON, "-c", stubborn], stop_seconds=0.3),
        ],
        lambda _name, line: lines.append(line),
    )
    supervisor.start()
    wait_for(lambda: lines.count("up") == 2)
    pids = [child.pid for child in supervisor.children]
    supervisor.stop()
    wait_for(lambda: "bye" in lines)
    assert not any(is_alive(pid) for pid in pids if pid is not None)


def test_children_go_when_the_supervisor_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from ratchet.processes import ProcessSpec, Supervisor\n"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "s = Supervisor([ProcessSpec('child', command)], print)\n"
        "s.start(); print(s['child'].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([PYTHON, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not is_alive(child))


def test_waiting_for_readiness_names_what_did_not_come_up() -> None:
    spec = ProcessSpec("slow", [PYTHON, "-c", "import time; time.sleep(60)"], ready=lambda: False)
    supervisor = Supervisor([spec], lambda _name, _line: None)
    supervisor.start()
    assert supervisor.wait_ready(0.3) == ["slow"]
    supervisor.stop()
