"""Bodies that real clients send, each with something odd about it: all must work.

Recorded by tests/clients/record_quirks.py, or written after recordings where a
client cannot run in a test.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.differential import without_additions
from tests.fakes.openai_server import ScriptedServer
from tests.gateway.conftest import Running

CASES = sorted((Path(__file__).resolve().parents[1] / "cases" / "quirks").glob("*.json"))
MODELS = ("gpt-4o-mini", "gpt-5.6-luna", "claude-sonnet-4-6", "text-embedding-3-small")
KEY = "THE-KEY"
BASE = "base"


@pytest.mark.parametrize("place", CASES, ids=lambda place: place.stem)
def test_what_clients_send_works(place: Path, start: Callable[..., Running]) -> None:
    case = json.loads(place.read_text())
    body, headers = case["body"], case["headers"]
    with ScriptedServer(is_vllm=True, base_model=BASE).serve() as engine:
        running = start(fake=engine, gateway={"aliases": MODELS, "api_key": KEY})
        answer = running.client.post(case["path"], content=json.dumps(body), headers=headers)
        assert answer.status_code == 200, answer.text
        check_answer(case["path"], bool(body.get("stream")), answer.text)
        if "/chat/completions" in case["path"]:
            [seen] = [entry for entry in engine.requests if entry.method == "POST"]
            assert without_additions(body, seen.body, {BASE}) == body
            assert seen.headers.get("accept-encoding") == "identity"
            assert KEY not in str(seen.headers)


def check_answer(path: str, is_streamed: bool, text: str) -> None:
    """Something was said, in the form of the route."""
    if "/chat/completions" in path:
        choices = events(text) if is_streamed else [json.loads(text)]
        said = [chunk["choices"][0] for chunk in choices if chunk["choices"]]
        assert any(says_something(c.get("delta") or c.get("message")) for c in said)
    elif "/messages" in path:
        blocks = [e.get("content_block") for e in events(text)] if is_streamed else []
        assert any(blocks) if is_streamed else json.loads(text)["content"]
    elif "/responses" in path:
        last = events(text)[-1]["response"] if is_streamed else json.loads(text)
        assert last["status"] == "completed"
        assert last["output"]
    else:
        assert json.loads(text)["data"]


def says_something(message: dict[str, Any] | None) -> bool:
    """Whether there is text or a call in a message or a delta."""
    return bool(message and (message.get("content") or message.get("tool_calls")))


def events(text: str) -> list[dict[str, Any]]:
    """The data of a stream's events."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
