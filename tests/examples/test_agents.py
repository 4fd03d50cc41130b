"""The agent's process: many sessions at once, errors told apart, an end that leaves nobody waiting.

The last test runs the example's own agent in its framework's environment, where that is made.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from examples.arena.agents import AgentProcess, python_of
from examples.arena.world import agent_script, find_world
from trajectories.errors import SettingsError

SCRIPT = """
import asyncio, os, sys

class APIError(Exception): pass
APIError.__module__ = "openai"

class BadRequestError(APIError):
    status_code = 400

async def answer(question: str, base_url: str, model: str) -> str:
    print("noise on stdout")
    if question == "die":
        os._exit(3)
    if question == "down":
        raise RuntimeError("outer") from APIError("no connection")
    if question == "too long":
        raise RuntimeError("outer") from BadRequestError("513 of 512 tokens")
    if question == "confused":
        raise ValueError("what the model wrote makes no sense")
    await asyncio.sleep(0.05 if question == "slow" else 0)
    return f"{question} {base_url} {model}"
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "agent.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def process(script: Path, tmp_path: Path) -> AgentProcess:
    return AgentProcess(Path(sys.executable), script, tmp_path / "agent.log")


async def test_each_session_gets_its_own_answer_however_they_overlap(
    script: Path, tmp_path: Path
) -> None:
    async with process(script, tmp_path) as agent:
        asked = ["slow", "a", "b\nc", "slow", "é"]
        replies = await asyncio.gather(
            *(agent.ask(text, base_url=f"u{n}", model="m") for n, text in enumerate(asked))
        )
    assert [reply.text for reply in replies] == [f"{t} u{n} m" for n, t in enumerate(asked)]
    assert "noise on stdout" in (tmp_path / "agent.log").read_text()


async def test_a_failed_request_is_told_from_an_agent_that_gave_up(
    script: Path, tmp_path: Path
) -> None:
    async with process(script, tmp_path) as agent:
        down = await agent.ask("down", base_url="u", model="m")
        confused = await agent.ask("confused", base_url="u", model="m")
        too_long = await agent.ask("too long", base_url="u", model="m")
    assert (down.text, down.is_transport) == (None, True)
    assert (confused.text, confused.is_transport) == (None, False)
    assert (too_long.text, too_long.is_transport) == (None, False)
    assert confused.error == "ValueError: what the model wrote makes no sense"


async def test_an_agent_that_dies_leaves_nobody_waiting(script: Path, tmp_path: Path) -> None:
    async with process(script, tmp_path) as agent:
        reply = await asyncio.wait_for(agent.ask("die", base_url="u", model="m"), 10)
        assert reply.is_transport
        assert "ended" in reply.error
        with pytest.raises(RuntimeError, match=r"agent\.log"):  # nor does the next one wait
            await asyncio.wait_for(agent.ask("a", base_url="u", model="m"), 10)


@pytest.fixture
def deaf_script(script: Path) -> Path:
    """An agent that does not heed SIGTERM."""
    ignoring = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script.write_text(ignoring + SCRIPT, encoding="utf-8")
    return script


async def test_an_agent_that_does_not_end_when_told_to_is_killed(
    deaf_script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.arena.agents.STOP_SECONDS", 0.2)
    async with asyncio.timeout(20):
        async with process(deaf_script, tmp_path) as agent:
            assert (await agent.ask("a", base_url="u", model="m")).text == "a u m"


async def test_an_agent_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    broken = tmp_path / "agent.py"
    broken.write_text("import nothing_of_that_name", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"agent\.log"):
        async with process(broken, tmp_path):
            pass
    assert "nothing_of_that_name" in (tmp_path / "agent.log").read_text()


def test_an_environment_that_is_not_made_is_named_with_the_command() -> None:
    with pytest.raises(SettingsError, match=r"tools/client_environments\.py"):
        python_of("never-made")


async def test_the_calculator_agent_calls_its_tool_and_reads_the_result(tmp_path: Path) -> None:
    try:
        python = python_of(find_world("calculator").environment)
    except SettingsError as error:
        pytest.skip(str(error))
    seen: list[tuple[str, dict[str, Any]]] = []

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.path, body))
        heard = body["messages"][-1]
        message: dict[str, Any] = {"role": "assistant", "content": f"It is {heard['content']}."}
        if heard["role"] == "user":
            arguments = json.dumps({"a": 3, "b": 4, "operation": "add"})
            call = {"name": "calculator", "arguments": arguments}
            message["content"] = None
            message["tool_calls"] = [{"id": "c1", "type": "function", "function": call}]
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return web.json_response({**whole, "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/{rest:.*}", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/a/calculator/t/s1/v1"
    async with AgentProcess(
        python, agent_script(find_world("calculator")), tmp_path / "agent.log"
    ) as agent:
        reply = await agent.ask("What is 3 plus 4?", base_url=url, model="policy")
    await runner.cleanup()
    assert reply.text == "It is 7."
    assert [path for path, _ in seen] == ["/a/calculator/t/s1/v1/chat/completions"] * 2
    first = seen[0][1]
    assert first["model"] == "policy"
    assert [tool["function"]["name"] for tool in first["tools"]] == ["calculator"]
