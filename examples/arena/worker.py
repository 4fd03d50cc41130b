"""Runs in a framework's own environment: questions in on stdin, answers out, many at a time.

    python worker.py AGENT.py

Standard library only, and nothing of Ratchet. A line in is {"id", "question", "base_url", "model"};
a line out is {"id", "answer"} or {"id", "error", "is_transport"}. The agent is a script with
`async def answer(question, base_url, model) -> str`.
"""

import asyncio
import importlib.util
import json
import os
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

TRANSPORT = ("openai", "httpx", "httpcore")  # whose exceptions mean that a request failed


def load(script: str) -> Any:
    """The agent's script as a module; what lies beside it can be imported by it."""
    sys.path.insert(0, str(Path(script).parent))
    spec = importlib.util.spec_from_file_location("agent", script)
    assert spec is not None
    assert spec.loader is not None
    agent = importlib.util.module_from_spec(spec)
    sys.modules["agent"] = agent
    spec.loader.exec_module(agent)
    return agent


def is_transport(error: BaseException | None) -> bool:
    """Whether a request failed, rather than the model or the agent.

    A client's exception about what the model wrote is the model's: only errors of its API count,
    and not a refusal of the request: whoever talks until no prompt is short enough has failed.
    """
    while error is not None:
        if getattr(error, "status_code", None) == HTTPStatus.BAD_REQUEST:
            return False
        kind = type(error)
        names = {base.__name__ for base in kind.__mro__}
        if kind.__module__.split(".")[0] in TRANSPORT and names & {"APIError", "TransportError"}:
            return True
        error = error.__cause__
    return False


async def serve(agent: Any, out: int) -> None:
    """Answer until stdin ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    running: set[asyncio.Task[None]] = set()

    async def work(asked: dict[str, str]) -> None:
        told: dict[str, Any] = {"id": asked["id"]}
        try:
            told["answer"] = await agent.answer(
                asked["question"], asked["base_url"], asked["model"]
            )
        except Exception as error:  # one session must not end the others
            told |= {"error": f"{type(error).__name__}: {error}"[:2000]}
            told["is_transport"] = is_transport(error)
        os.write(out, json.dumps(told).encode() + b"\n")

    while line := await lines.readline():
        task = asyncio.create_task(work(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


def main() -> None:
    # What the framework prints goes to the log, and never between the answers.
    out = os.dup(1)
    os.dup2(2, 1)
    agent = load(sys.argv[1])
    os.write(out, b'{"id": ""}\n')  # ready
    asyncio.run(serve(agent, out))


if __name__ == "__main__":
    main()
