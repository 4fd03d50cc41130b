"""The agent's process, seen from the harness: one child that holds many sessions at once."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self

from ratchet.processes import die_with_parent
from trajectories.errors import SettingsError

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".venv-clients"
WORKER = Path(__file__).with_name("worker.py")
LINE_BYTES = 2**24
SESSION_SECONDS = 180.0
START_SECONDS = 180.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one session. `text` is None where the agent raised."""

    text: str | None
    error: str = ""
    is_transport: bool = False  # a request failed: nobody got anything to judge


class Agent(Protocol):
    """Whatever answers questions."""

    async def ask(self, question: str, *, base_url: str, model: str) -> Reply:
        """One session, from the question to the last words."""


def python_of(environment: str) -> Path:
    """The interpreter of a framework's environment; raises SettingsError where it is not made."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        raise SettingsError(
            f"no {python}: make it with"
            f" `python tools/client_environments.py .venv-clients {environment}`"
        )
    return python


class AgentProcess:
    """A running agent; use as an async context manager."""

    def __init__(self, python: Path, script: Path, log: Path) -> None:
        # -P: what lies beside the worker must not hide a framework's package of the same name.
        self._command = [str(python), "-P", "-W", "ignore", str(WORKER), str(script)]
        self._log_path = log
        self._log: IO[bytes] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._asked = 0

    async def __aenter__(self) -> Self:
        self._log = self._log_path.open("ab")
        # No address of ours is in its environment: each session brings its own.
        environment = {**os.environ, "OPENAI_API_KEY": "none", "PYTHONPATH": ""}
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            env=environment,
            limit=LINE_BYTES,
            preexec_fn=die_with_parent,
        )
        assert self._process.stdout is not None
        try:
            ready = await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)
        except BaseException:
            await self.__aexit__()
            raise
        if not ready:
            await self.__aexit__()
            raise SettingsError(f"the agent did not start: see {self._log_path}")
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._process is not None
        assert self._log is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:  # it, or something that its framework started, holds on
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader
        self._log.close()

    async def ask(self, question: str, *, base_url: str, model: str) -> Reply:
        """One session, from the question to the last words. Raises RuntimeError after its end."""
        assert self._process is not None
        assert self._process.stdin is not None
        if self._reader is None or self._reader.done():
            raise RuntimeError(f"the agent's process has ended: see {self._log_path}")
        self._asked += 1
        name = str(self._asked)
        asked = {"id": name, "question": question, "base_url": base_url, "model": model}
        self._waiting[name] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        try:
            return await asyncio.wait_for(self._waiting[name], SESSION_SECONDS)
        except TimeoutError:
            return Reply(None, "no answer in time", is_transport=True)
        finally:
            del self._waiting[name]

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                told = json.loads(line)
                error, is_transport = told.get("error", ""), bool(told.get("is_transport"))
                future = self._waiting.get(told["id"])
                if future is not None and not future.done():
                    future.set_result(Reply(told.get("answer"), error, is_transport))
        finally:
            for future in self._waiting.values():  # it ended: nobody is left waiting
                if not future.done():
                    future.set_result(Reply(None, "the agent's process ended", is_transport=True))
