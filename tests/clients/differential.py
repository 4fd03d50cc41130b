"""Runs one client script against an upstream, straight and through the gateway.

What is compared is what matters to a user: the bodies that reach the upstream
and what the application sees. Ids differ from run to run and are numbered; what
the gateway may add is taken out here, and nothing else.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import ScriptedServer
from tests.fakes.vllm import Seen

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "clients" / "scripts"
ENVIRONMENTS = ROOT / ".venv-clients"
CLIENT_KEY = "sk-of-the-client"
UPSTREAM_KEY = "sk-of-the-upstream"
OUR_FIELDS = {"session_id", "task_id", "agent_id"}
SECONDS = 120  # a script that hangs ends here

_ID = re.compile(
    r"\b(?:chatcmpl-tool-|chatcmpl-|cmpl-|call_|toolu_|resp_|msg_|fc_)[0-9A-Za-z_-]{8,}"
)
_SCENARIO = re.compile(r"Scenario ([a-z-]+):")


@dataclass(frozen=True, slots=True)
class Client:
    """A script, the environment it runs in, and how it is called."""

    script: str
    environment: str | None = None  # None: the tests' own
    arguments: tuple[str, ...] = ()
    dialect: str = "chat"

    def __str__(self) -> str:
        return " ".join([Path(self.script).stem, *self.arguments])

    @property
    def command(self) -> list[str]:
        """How to start it."""
        place = SCRIPTS / self.script
        if place.suffix == ".cjs":
            return ["node", str(place), *self.arguments]
        own = sys.executable
        python = str(self.home / "bin" / "python") if self.environment else own
        return [python, "-W", "ignore", str(place), *self.arguments]

    @property
    def home(self) -> Path:
        """Its environment's directory."""
        return ENVIRONMENTS / str(self.environment)

    @property
    def missing(self) -> str | None:
        """Why it cannot run here; None when it can."""
        if self.environment is None:
            package = "anthropic" if self.script.startswith("anthropic") else "openai"
            return None if find_spec(package) else f"no {package} in this environment"
        if (self.home / ".installed").is_file():
            return None
        return f"no .venv-clients/{self.environment}: `make test-clients` installs it"


CLIENTS = (
    Client("openai_chat.py"),
    Client("azure_chat.py"),
    Client("langchain_azure.py", "openai3"),
    Client("openai_node.cjs", "node"),
    Client("langchain_chat.py", "openai3"),
    Client("langgraph_agent.py", "openai3"),
    Client("autogen_agent.py", "openai3"),
    Client("autogen_team.py", "openai3"),
    Client("agents_sdk.py", "openai3", ("chat",)),
    Client("pydantic_ai_agent.py", "openai3", ("chat",)),
    Client("smolagents_agents.py", "openai3"),
    Client("llama_index_agent.py", "openai2"),
    Client("litellm_chat.py", "openai2"),
    Client("crewai_crew.py", "crewai"),
    Client("openai_responses.py", dialect="responses"),
    Client("openai_node.cjs", "node", ("responses",), "responses"),
    Client("agents_sdk.py", "openai3", dialect="responses"),
    Client("pydantic_ai_agent.py", "openai3", dialect="responses"),
    Client("llama_index_responses.py", "openai2", dialect="responses"),
    Client("anthropic_messages.py", dialect="messages"),
    Client("openai_rest.py", dialect="rest"),
)
ERRORS = (
    Client("openai_errors.py", arguments=("chat",)),
    Client("openai_errors.py", arguments=("responses",), dialect="responses"),
    Client("anthropic_errors.py", dialect="messages"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a script brought about."""

    results: dict[str, Any]  # scenario -> what the application saw
    requests: list[Seen]  # what the upstream saw


def play(
    client: Client, url: str, directory: Path, key: str = CLIENT_KEY, **variables: str
) -> dict[str, Any]:
    """Run a script to its end, with more `variables`, and return what its application saw."""
    directory.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(
        client.command,
        env={**environment(url, key, directory, client), **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    lines = ended.stdout.strip().splitlines()
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert lines, ended.stderr[-4000:]
    return dict(json.loads(lines[-1]))


def environment(url: str, key: str, home: Path, client: Client) -> dict[str, str]:
    """The variables that clients read themselves, and those that keep them from the network."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_BASE": f"{url}/v1",
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": key,
        "AZURE_OPENAI_ENDPOINT": url,
        "AZURE_OPENAI_API_KEY": key,
        "NODE_PATH": str(client.home / "node_modules"),
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TESTING": "true",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OTEL_SDK_DISABLED": "true",
    }


def both(
    client: Client, straight: ScriptedServer, behind: ScriptedServer, url: str, directory: Path
) -> tuple[Run, Run]:
    """The run against `straight` and the one to the gateway at `url` before `behind`."""
    with ThreadPoolExecutor(2) as runs:
        first = runs.submit(play, client, straight.url, directory / "straight")
        second = runs.submit(play, client, url, directory / "gateway")
        return (
            Run(first.result(), list(straight.requests)),
            Run(second.result(), list(behind.requests)),
        )


def numbered(content: Any) -> Any:
    """The same with each id replaced by its place in the order of first appearance."""
    names: dict[str, str] = {}
    raw = json.dumps(content, sort_keys=True)
    return json.loads(_ID.sub(lambda m: names.setdefault(m[0], f"id-{len(names)}"), raw))


def without_ids(sent: Any) -> Any:
    """A body without the ids that are meant for the gateway: the one thing that it takes out."""
    if not isinstance(sent, dict):
        return sent
    return {name: value for name, value in sent.items() if name not in OUR_FIELDS}


def without_additions(sent: Any, seen: Any, models: Collection[str] = ()) -> Any:
    """`seen` without what the gateway may add to `sent`; it may be asked for `models` instead."""
    if not isinstance(sent, dict) or not isinstance(seen, dict):
        return seen
    rest = dict(seen)
    if rest.get("model") in models:
        rest["model"] = sent.get("model")
    for name in ("return_token_ids", "logprobs"):
        if name not in sent and rest.get(name) is True:
            del rest[name]
    if sent.get("stream") is True:
        options = {**(sent.get("stream_options") or {}), "include_usage": True}
        if rest.get("stream_options") == options:
            rest.pop("stream_options")
            if "stream_options" in sent:
                rest["stream_options"] = sent["stream_options"]
    return rest


def scenario_of(content: Any) -> str | None:
    """The scenario whose question is in a body."""
    found = _SCENARIO.search(json.dumps(content))
    return found[1] if found else None


def scripted(stack: ExitStack, **switches: Any) -> ScriptedServer:
    """A scripted upstream of its own."""
    return stack.enter_context(ScriptedServer(**switches).serve())


def authority(headers: Mapping[str, str]) -> list[str]:
    """Every credential of a request as it arrived."""
    names = ("authorization", "api-key", "x-api-key")
    return [headers[name].removeprefix("Bearer ") for name in names if name in headers]
