"""The examples' own agents against a scripted engine, in their framework's environment."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from examples.arena.agents import AgentProcess, Reply, python_of
from examples.arena.world import agent_script, find_world
from examples.retrieval.archive import Archive
from examples.retrieval.lessons import INSTRUCTIONS
from examples.text_to_sql import prompts
from trajectories.errors import SettingsError

Body = dict[str, Any]


@asynccontextmanager
async def engine(answer: Callable[[str, Body], Body]) -> AsyncIterator[str]:
    """A server that answers every POST with what `answer` makes of its path and body."""

    async def respond(request: web.Request) -> web.Response:
        return web.json_response(answer(request.path, await request.json()))

    app = web.Application()
    app.router.add_post("/{rest:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/a/x/t/s1/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def start(name: str, log: Path) -> AsyncIterator[AgentProcess]:
    """A world's agent, running; skips where its environment is not made."""
    world = find_world(name)
    try:
        python = python_of(world.environment)
    except SettingsError as error:
        pytest.skip(str(error))
    async with AgentProcess(python, agent_script(world), log) as agent:
        yield agent


async def analyse(agent: AgentProcess, said: list[str]) -> tuple[Reply, list[list[str]]]:
    """A session of text-to-SQL in which the model says these things in turn, and what it read."""
    seen: list[list[str]] = []
    turns = iter(said)

    def complete(path: str, body: Body) -> Body:
        assert path.endswith("/t/s1/v1/chat/completions")
        seen.append([message["content"] for message in body["messages"]])
        message = {"role": "assistant", "content": next(turns)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
        return {**whole, "choices": [choice]}

    async with engine(complete) as url:
        reply = await agent.ask("How many?", base_url=url, model="policy")
    return reply, seen


COUNT = "SELECT COUNT(*) FROM employees"


async def test_the_analyst_writes_runs_checks_and_rewrites(tmp_path: Path) -> None:
    typed = "SELECT COUNT(*) FORM employees"
    said = [typed, "SELECT SUM(age) FROM employees", "Not a count.", COUNT]
    async with start("text_to_sql", tmp_path / "agent.log") as agent:
        smooth = await analyse(agent, [COUNT, "OK"])
        rough, seen = await analyse(agent, said)
        crowd = await asyncio.gather(*(analyse(agent, [COUNT, "OK"]) for _ in range(32)))
    checked = prompts.check_words("How many?", COUNT, "[[60]]")
    assert smooth == (
        Reply("[[60]]"),
        [[prompts.WRITE, "How many?"], [prompts.CHECK, checked]],
    )
    assert crowd == [smooth] * 32  # side by side, over one database
    # SQLite's words, the checker's words, and no check after the third query.
    assert rough == Reply("[[60]]")
    after_error, after_check = seen[1], seen[3]
    assert after_error[0] == after_check[0] == prompts.REWRITE
    assert after_error[1].startswith(prompts.rewrite_words("How many?", typed, "near"))
    assert after_check[1].endswith("Fault: Not a count.")


def respond_with(item: Body) -> Body:
    """A response of one item."""
    whole = {"id": "r", "object": "response", "created_at": 1, "model": "m", "tools": []}
    whole |= {"status": "completed", "tool_choice": "auto", "parallel_tool_calls": True}
    return {**whole, "output": [{"id": "i", "status": "completed", **item}]}


async def test_the_researcher_searches_twice_and_gives_up_after_four_turns(tmp_path: Path) -> None:
    queries = ("Ada Moor born", "Selby river")
    seen: list[Body] = []

    def respond(path: str, body: Body) -> Body:
        assert path.endswith("/t/s1/v1/responses")
        seen.append(body)
        place = len(seen) - 1
        if place == len(queries):
            text = {"type": "output_text", "text": "The answer is Ouse.", "annotations": []}
            return respond_with({"type": "message", "role": "assistant", "content": [text]})
        query = queries[place % len(queries)]
        call = {"type": "function_call", "name": "search", "call_id": f"c{place}"}
        return respond_with({**call, "arguments": json.dumps({"query": query})})

    async with start("retrieval", tmp_path / "agent.log") as agent, engine(respond) as url:
        found = await agent.ask("Which river?", base_url=url, model="policy")
        lost = await agent.ask("Which river?", base_url=url, model="policy")
    assert found == Reply("The answer is Ouse.")
    assert lost == Reply("Sorry, I did not find out.")
    assert len(seen) == len(queries) + 1 + 4
    archive, last = Archive(), seen[len(queries)]
    heard = [item["output"] for item in last["input"] if item.get("output")]
    assert heard == [archive.search(query) for query in queries]
    assert last["instructions"] == INSTRUCTIONS
    assert [tool["name"] for tool in last["tools"]] == ["search"]
