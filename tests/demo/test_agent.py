"""The agent and the traffic, against a small OpenAI-shaped server in this process."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ratchet.demo.agent import Answer, Failure, answer
from ratchet.demo.questions import held_out_questions
from ratchet.demo.traffic import Session, Traffic, evaluate, open_client
from ratchet.demo.users import Habits

CALL = {"name": "calculator", "arguments": '{"a": 17, "b": 5, "operation": "add"}'}


class Engine:
    """Calls the calculator once and repeats what it said; can refuse or cut streams."""

    def __init__(self, fault: str | None = None) -> None:
        self.fault = fault
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.root = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1])
            for line in head.splitlines()
            if line.lower().startswith("content-length")
        )
        body = json.loads(await reader.readexactly(length))
        path = head.split()[1]
        self.paths.append(path)
        self.bodies.append(body)
        status, content = 200, b"{}"
        if path.endswith("/chat/completions"):
            status = 503 if self.fault == "refuse" else 200
            content = b"" if status == 503 else self.stream(body["messages"])
        kind = "text/event-stream" if path.endswith("completions") else "application/json"
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}"
            "\r\nconnection: close\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        writer.close()

    def stream(self, messages: list[dict[str, Any]]) -> bytes:
        if messages[-1]["role"] == "tool":
            result = json.loads(messages[-1]["content"]).get("result", "lost")
            deltas: list[dict[str, Any]] = [
                {"content": "The answer "},
                {"content": f"is {result}."},
            ]
            reason = "stop"
        else:
            whole = {"index": 0, "id": "call-1", "type": "function", "function": CALL}
            half = {"index": 0, "function": {"arguments": ""}}
            deltas, reason = [{"tool_calls": [whole]}, {"tool_calls": [half]}], "tool_calls"
        endings = [] if self.fault == "cut" else [reason]
        choices: list[dict[str, Any]] = [
            {"index": 0, "delta": delta, "finish_reason": None} for delta in deltas
        ]
        choices += [{"index": 0, "delta": {}, "finish_reason": end} for end in endings]
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        events = [json.dumps({**base, "choices": [choice]}) for choice in choices]
        return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]).encode()


@contextlib.asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    engine.root = f"http://{host}:{port}"
    async with server:
        yield engine


def ask(engine: Engine) -> Answer:
    async def one() -> Answer:
        async with running(engine), open_client(f"{engine.root}/v1") as client:
            return await answer(client, "m", "What is 17 plus 5?")

    return asyncio.run(one())


def test_the_agent_calls_its_tool_and_answers() -> None:
    reply = ask(Engine())
    assert reply.text == "The answer is 22."
    assert [call.result for call in reply.calls] == ['{"result": 22}']
    assert (reply.requests, reply.failure) == (2, None)


def test_the_model_reads_the_tool_call_and_its_result() -> None:
    engine = Engine()
    ask(engine)
    roles = [message["role"] for message in engine.bodies[-1]["messages"]]
    assert roles == ["user", "assistant", "tool"]
    assert engine.bodies[-1]["messages"][1]["tool_calls"][0]["function"] == CALL


@pytest.mark.parametrize(
    ("fault", "failure"), [("refuse", Failure.REQUEST), ("cut", Failure.STREAM)]
)
def test_the_agent_notices_a_failure(fault: str, failure: Failure) -> None:
    reply = ask(Engine(fault))
    assert reply.failure is failure
    assert reply.text == ""


def test_traffic_names_each_session_in_its_path_and_posts_thumbs_apart() -> None:
    engine = Engine()
    seen: list[Session] = []

    async def drive() -> None:
        async with running(engine):
            traffic = Traffic(
                engine.root,
                "m",
                seed=1,
                concurrency=2,
                habits=Habits(speaks_when_wrong=1.0, speaks_when_right=1.0),
                on_session=on_session,
            )
            drivers.append(traffic)
            await traffic.run()

    async def on_session(session: Session) -> None:
        seen.append(session)
        if len(seen) >= 30:
            drivers[0].stop()

    drivers: list[Traffic] = []
    asyncio.run(drive())
    counts = drivers[0].counts
    assert counts.sessions == len(seen) >= 30
    assert counts.labels == engine.paths.count("/v1/feedback") == counts.sessions // 10
    assert (counts.failed_requests, counts.cut_streams, counts.failed_labels) == (0, 0, 0)
    assert {f"/t/{session.id}/v1/chat/completions" for session in seen} <= set(engine.paths)


def test_evaluation_goes_past_the_gateway_and_counts_right_answers() -> None:
    engine = Engine()

    async def measure() -> float:
        async with running(engine):
            return await evaluate(engine.root, "m", held_out_questions(20), concurrency=4)

    assert 0.0 <= asyncio.run(measure()) < 0.5
    assert set(engine.paths) == {"/v1/chat/completions"}
