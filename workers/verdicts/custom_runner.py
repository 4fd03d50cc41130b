"""`python -m workers.verdicts.custom_runner NAME`: runs one custom reward, line by line.

A trajectory comes in as a line of JSON, an answer goes out as one. Started and
killed by `custom.py`; ends by itself when its input does.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import IO, Any

from trajectories.model import Trajectory

GROUP = "ratchet.rewards"
PR_SET_PDEATHSIG = 1


def find(name: str) -> Callable[[Trajectory], Any]:
    """The function of an entry point; raises LookupError naming those there are."""
    found = entry_points(group=GROUP)
    for entry in found:
        if entry.name == name:
            function: Callable[[Trajectory], Any] = entry.load()
            return function
    known = ", ".join(sorted(entry.name for entry in found)) or "none"
    raise LookupError(f"no entry point {name!r} in the group {GROUP} (there are: {known})")


def main(name: str) -> None:
    """Answer until the input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # What the function prints goes to standard error; answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        function = find(name)
    except Exception as error:  # whatever a stranger's import does
        _say(answers, {"error": _last_line(error)})
        return
    _say(answers, {"ready": name})
    for line in sys.stdin.buffer:
        _say(answers, _answer(function, line))


def _answer(function: Callable[[Trajectory], Any], line: bytes) -> dict[str, Any]:
    """What the function said, or the error it ended with."""
    try:
        said = function(Trajectory.from_json(line))
        return {"said": json.loads(json.dumps(said, default=_plain))}
    except Exception as error:  # whatever a stranger's code does
        return {"error": _last_line(error)}


def _plain(value: Any) -> float:
    """A number of another library, such as numpy's; a bool of it is none."""
    if hasattr(value, "__float__") and "bool" not in type(value).__name__:
        return float(value)
    raise TypeError(f"a {type(value).__name__} is no reward: give a number")


def _say(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _last_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}"[:1800] + where[:200]


if __name__ == "__main__":
    main(sys.argv[1])
