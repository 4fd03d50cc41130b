"""Record the bodies that real clients send, as the cases of tests/gateway/test_quirks.py.

    python -m tests.clients.record_quirks          (needs `make test-clients`)

Only the cases named here are written; those of clients that cannot run here
(Claude Code, Codex, aider) were written by hand after recordings and stay.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients.differential import CLIENTS, Client, play
from tests.fakes.openai_server import ScriptedServer
from tests.fakes.vllm import Seen

CASES = Path(__file__).resolve().parents[1] / "cases" / "quirks"
KEPT_HEADERS = (
    "accept-encoding",
    "anthropic-version",
    "authorization",
    "api-key",
    "content-type",
    "user-agent",
    "x-api-key",
    "x-stainless-retry-count",
)
KEY = "THE-KEY"  # what stands in a case for the client's key


@dataclass(frozen=True, slots=True)
class Quirk:
    """A body worth keeping: the first of a script's that fits."""

    name: str
    client: str  # as `str(Client)` writes it
    fits: Callable[[dict[str, Any]], bool]


def output_format(body: dict[str, Any]) -> str | None:
    """What structured output is asked for by."""
    kind = (body.get("response_format") or {}).get("type")
    return str(kind) if kind else None


def roles(body: dict[str, Any]) -> list[str]:
    """Who speaks, in order."""
    return [message.get("role", "") for message in body.get("messages", [])]


QUIRKS = (
    Quirk("azure-model-null", "langchain_azure", lambda b: b["model"] is None),
    Quirk("responses-all-null", "llama_index_responses", lambda b: b["user"] is None),
    Quirk("stream-false", "autogen_agent", lambda b: "tool" in roles(b)),
    Quirk("parts-in-system", "smolagents_agents", lambda b: len(b["messages"]) > 2),
    Quirk("agent-names", "autogen_team", lambda b: len(b["messages"]) > 3),
    Quirk("named-tool-messages", "crewai_crew", lambda b: "tool" in roles(b)),
    Quirk("no-tools-listed", "agents_sdk", lambda b: b.get("tools") == []),
    Quirk("strict-tools", "agents_sdk chat", lambda b: "tool" in roles(b)),
    Quirk(
        "json-schema", "langchain_chat", lambda b: "json_schema" in str(b.get("response_format"))
    ),
    Quirk(
        "json-object", "langchain_chat", lambda b: "json_object" in str(b.get("response_format"))
    ),
    Quirk("forced-tool", "langchain_chat", lambda b: isinstance(b.get("tool_choice"), dict)),
    Quirk("null-content", "openai_chat", lambda b: "tool" in roles(b)),
    Quirk("reserialised-arguments", "pydantic_ai_agent chat", lambda b: "tool" in roles(b)),
    Quirk("packed-embeddings", "openai_rest", lambda b: b.get("encoding_format") == "base64"),
    Quirk("structured-messages", "anthropic_messages", lambda b: "output_config" in b),
)


def record(client: Client) -> list[Seen]:
    """What the client sends in its whole script."""
    with tempfile.TemporaryDirectory() as directory, ScriptedServer().serve() as server:
        play(client, server.url, Path(directory), key=KEY)
        return [seen for seen in server.requests if seen.method == "POST"]


def case(quirk: Quirk, seen: Seen) -> dict[str, Any]:
    """A case as it is stored."""
    headers = {name: seen.headers[name] for name in KEPT_HEADERS if name in seen.headers}
    return {"client": quirk.client, "path": seen.path, "headers": headers, "body": seen.body}


def main() -> None:
    recordings: dict[str, list[Seen]] = {}
    for quirk in QUIRKS:
        candidates = [c for c in CLIENTS if str(c) == quirk.client and c.missing is None]
        if not candidates:
            sys.stdout.write(f"{quirk.name}: {quirk.client} is not installed\n")
            continue
        if quirk.client not in recordings:
            recordings[quirk.client] = record(candidates[0])
        found = next(seen for seen in recordings[quirk.client] if quirk.fits(seen.body))
        content = json.dumps(case(quirk, found), indent=1, ensure_ascii=False)
        (CASES / f"{quirk.name}.json").write_text(content + "\n")


if __name__ == "__main__":
    main()
