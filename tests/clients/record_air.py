"""Record AIR's cases from real clients: tests/cases/air/SIGNAL-N.json.

    python -m tests.clients.record_air [SIGNAL-N ...]        (needs `make test-clients`)

Each scene plays a real client (tests/clients/scripts/air_scenes.py) against the
real gateway before a fake engine that answers as the scene says; what the
gateway recorded is the case. `fires` is what we expect, written here by hand
and never taken from the code. Token ids are left out, and a user's next message
comes five seconds after the answer, as it would from a person.
"""

import json
import subprocess
import sys
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeredis
from aiohttp import web

from gateway.app import create_app
from gateway.spool.payload import shipped
from gateway.spool.segments import list_segments, read_frames
from tests.clients.air_scenes import SCENES, Scene
from tests.clients.differential import SCRIPTS, Client, environment
from tests.fakes.vllm import FakeVLLM
from tests.gateway.conftest import serving, settings_for, shipping_client
from trajectories.model import Transition, unpack_record

CASES = Path(__file__).resolve().parents[1] / "cases" / "air"
MODELS = ("gpt-4o-mini", "claude-sonnet-4-6")
READING_SECONDS = 5.0
OWN = ("openai", "responses", "anthropic")  # clients of the tests' own environment
KEPT = (
    "dialect",
    "agent",
    "is_streamed",
    "started_at",
    "latency_seconds",
    "request",
    "response_id",
    "choices",
    "usage",
)


@dataclass
class SceneServer(FakeVLLM):
    """Answers one after the other; a dictionary is put over the first choice as it is."""

    script: deque[Any] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._patch: dict[str, Any] = {}
        self.reply_to = self._next

    def _next(self, body: dict[str, Any]) -> Any:
        answer = self.script.popleft() if self.script else "I have nothing to add."
        self._patch = answer if isinstance(answer, dict) else {}
        return "" if isinstance(answer, dict) else answer

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        response = await super()._chat(request)
        if not self._patch or not isinstance(response, web.Response):
            return response
        body = json.loads(response.body or b"")
        message = {**body["choices"][0]["message"], **self._patch.get("message", {})}
        body["choices"][0].update({**self._patch, "message": message})
        return web.json_response(body)


def record(scene: Scene) -> list[Transition]:
    """What the gateway recorded while the scene was played."""
    with tempfile.TemporaryDirectory() as name, SceneServer(base_model="base").serve() as server:
        directory = Path(name)
        server.script.extend(scene.answers)
        settings = settings_for(
            directory / "data",
            server.url,
            upstream={"base_model": "base", "retries": 0},
            gateway={"aliases": MODELS},
        )
        store = fakeredis.FakeRedis()
        app = create_app(settings, redis=store, shipping=shipping_client(store))
        with serving(app) as url:
            play(scene, url, directory)
        found: list[Transition] = []
        for segment in list_segments(app.state.services.spool.directory):
            records = [unpack_record(shipped(frame.payload)) for frame in read_frames(segment)]
            found += [entry for entry in records if isinstance(entry, Transition)]
        return sorted(found, key=lambda transition: transition.started_at)


def play(scene: Scene, url: str, directory: Path) -> None:
    """Run the client to the end of the scene."""
    client = Client("air_scenes.py", None if scene.client in OWN else "openai3")
    if client.missing:
        raise SystemExit(client.missing)
    python = client.command[0]
    content = json.dumps(scene.content())
    subprocess.run(
        [python, "-W", "ignore", str(SCRIPTS / "air_scenes.py"), scene.client, content],
        env=environment(url, "sk-client", directory, client),
        cwd=directory,
        check=True,
        timeout=120,
        stdout=subprocess.DEVNULL,
    )


def case(scene: Scene, transitions: list[Transition]) -> dict[str, Any]:
    """A case as it is stored."""
    kept = []
    pause = 0.0
    for number, transition in enumerate(transitions):
        if number and _is_persons_turn(transition):
            pause += READING_SECONDS
        content = transition.model_dump(mode="json", include=set(KEPT), exclude_defaults=True)
        content["started_at"] = round(
            1000 + transition.started_at - transitions[0].started_at + pause, 3
        )
        content["latency_seconds"] = round(transition.latency_seconds, 3)
        for choice in content["choices"]:
            choice.pop("token_ids", None)
            choice.pop("logprobs", None)
        kept.append(content)
    return {
        "client": scene.client,
        "what": scene.what,
        "fires": [list(entry) for entry in scene.fires],
        **({"limits": scene.rules} if scene.rules else {}),
        "transitions": kept,
    }


def _is_persons_turn(transition: Transition) -> bool:
    last = transition.request["messages"][-1]
    return last["role"] == "user" and not str(last["content"]).startswith("Observation")


def main() -> None:
    wanted = sys.argv[1:]
    CASES.mkdir(exist_ok=True)
    for scene in SCENES:
        if wanted and scene.name not in wanted:
            continue
        transitions = record(scene)
        content = json.dumps(case(scene, transitions), indent=1, ensure_ascii=False)
        (CASES / f"{scene.name}.json").write_text(content + "\n")
        sys.stdout.write(f"{scene.name}: {len(transitions)} calls\n")


if __name__ == "__main__":
    main()
