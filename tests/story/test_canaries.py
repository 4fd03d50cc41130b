"""Canaries through the whole house: secrets are found nowhere, people in no archive and no row."""

import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ratchet.processes import file_sink
from ratchet.redis_server import EmbeddedRedis
from ratchet.up import Loop
from tests.fakes.openai_server import ScriptedServer
from tests.fakes.vllm import FakeVLLM
from tests.residue import in_files, in_redis
from tests.story.conftest import eventually, free_port
from trainer.batch.batching import look, selection_for
from trainer.batch.samples import Exclusion
from trajectories.access import KeyStore
from trajectories.connection import Redis, connect
from trajectories.settings import RedisSettings, Settings, load_settings
from trajectories.store import Store, TrajectoryRef

SECRETS = {
    "provider key": "sk-proj-CANARYabcdefghijklmnop0123456789",
    "upstream key": "upstream-canary-key-0001",
    "redis password": "redis-canary-password-1",
    "cookie": "cookie-canary-session-77",
    "github": "ghp_CANARYabcdefghijklmnopqrstuvwxyz0123",
    "password in a url": "canary-hunter2",
}
PEOPLE = ("canary.person@example.org", "+49 30 9018207", "4111 1111 1111 1111")
SAID = " ".join(
    [
        SECRETS["provider key"],
        SECRETS["upstream key"],
        SECRETS["redis password"],
        SECRETS["github"],
        f"postgres://user:{SECRETS['password in a url']}@db/x",
        *PEOPLE,
    ]
)


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does, and keeps the bytes."""

    server: "Collecting"

    def do_POST(self) -> None:
        self.server.spans.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Collecting(ThreadingHTTPServer):
    """A collector on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Collector)
        self.spans: list[bytes] = []
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


@dataclass
class Aviary:
    """A house with canaries in it, and all that it has shown."""

    client: httpx2.Client
    engine: FakeVLLM
    other: ScriptedServer
    collecting: Collecting
    redis: Redis
    settings: Settings
    directory: Path
    key: str
    errors: list[str] = field(default_factory=list)
    calls: int = 0

    def call(self, path: str, body: Any, **headers: str) -> None:
        self.calls += 1
        known = {
            "authorization": f"Bearer {self.key}",
            "cookie": f"session={SECRETS['cookie']}",
            "x-session-id": f"s{self.calls}-{SECRETS['provider key']}",
            "x-other": SAID,
            **headers,
        }
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        try:
            answer = self.client.post(path, headers=known, **content)
        except httpx2.HTTPError as error:  # it was cut off
            self.errors.append(repr(error))
        else:
            if answer.status_code >= 400:
                self.errors.append(f"{answer.headers} {answer.text}")
            elif (at := answer.text.find('"error":{')) >= 0:  # in the middle of a stream
                self.errors.append(answer.text[at:])


@pytest.fixture(scope="module")
def aviary() -> Iterator[Aviary]:
    with (
        tempfile.TemporaryDirectory(prefix="rt", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as environment,
        FakeVLLM(api_key=SECRETS["upstream key"]).serve() as engine,
        ScriptedServer().serve() as other,
        Collecting() as collecting,
    ):
        directory = Path(name)
        server = EmbeddedRedis(
            Settings(data_dir=directory / "r", redis=RedisSettings(timeout_seconds=5))
        )
        server.start()
        client = connect(server.settings)
        client.config_set("requirepass", SECRETS["redis password"])
        client.close()
        url = server.settings.url.replace("unix://", f"unix://:{SECRETS['redis password']}@")
        for variable, value in {
            "DATA_DIR": str(directory / "d"),
            "REDIS_URL": url,
            "REDIS_TIMEOUT_SECONDS": "5",
            "UPSTREAM_URL": engine.url,
            "UPSTREAM_API_KEY": SECRETS["upstream key"],
            "UPSTREAM_FIRST_BYTE_SECONDS": "1",
            "UPSTREAM_IDLE_SECONDS": "1",
            "UPSTREAMS": f'{{"other": {{"url": "{other.url}"}}}}',
            "ROUTES": '{"gpt": {"upstream": "other", "model": "gpt-4o-mini"}}',
            "GATEWAY_PORT": str(free_port()),
            "GATEWAY_REQUIRE_KEYS": "true",
            "REWARDS_LABEL_WINDOW_SECONDS": "1",
            "ARCHIVE_SETTLE_SECONDS": "0",
            "ARCHIVE_ROLL_SECONDS": "1",
            "TRACING_ENDPOINT": collecting.url,
        }.items():
            environment.setenv(f"RATCHET_{variable}", value)
        settings = load_settings()
        redis = connect(settings.redis)
        _, key = KeyStore(redis).create(
            name="canary", scopes=["inference", "feedback", "read"], now=time.time()
        )
        loop = Loop(settings, file_sink(directory / "loop.log"), with_trainer=False)
        try:
            loop.start()
            address = f"http://127.0.0.1:{settings.gateway.port}"
            with httpx2.Client(base_url=address, timeout=30) as http:
                yield Aviary(http, engine, other, collecting, redis, settings, directory, key)
        finally:
            loop.stop()
            redis.close()
            server.stop()


def sing(aviary: Aviary) -> None:
    """Every way in, and every way to end."""
    asked = [{"role": "user", "content": SAID}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": asked, "user": PEOPLE[0], "metadata": {"k": SAID}},
        "/v1/completions": {"prompt": SAID},
        "/v1/responses": {"input": SAID, "instructions": SAID, "safety_identifier": PEOPLE[0]},
        "/v1/messages": {"max_tokens": 9, "messages": asked, "system": SAID},
    }
    aviary.engine.reply = lambda model, messages: f"You said {SAID} ."
    for path, body in bodies.items():
        for is_streamed in (False, True):
            aviary.call(path, {"model": "policy", "stream": is_streamed, **body})
    faults = ("500", "429", "503", "hang_after", "error_object", "no_done", "garbage")
    for fault, (path, body) in zip(faults, cycle(bodies.items()), strict=False):
        aviary.engine.fault = fault
        aviary.call(path, {"model": "policy", "stream": True, **body})
        aviary.call("/v1/chat/completions", {"model": "policy", "messages": asked})
    aviary.engine.fault = None
    for status in (400, 401, 429, 500):
        content = f"Fail with {status} {SAID}"
        aviary.call(
            "/v1/chat/completions",
            {"model": "gpt", "messages": [{"role": "user", "content": content}]},
        )
    raw = SAID.encode()
    for broken in (raw, b'{"model": 1, "x": "%b"}' % raw, b'{"messages": "%b"}' % raw, b"[]"):
        for path in (*bodies, "/v1/feedback"):
            aviary.call(path, broken)
    vote = {"comment": SAID, "correction": SAID, "metadata": {"a": [SAID]}, "extra": SAID}
    for target in ({"response_id": "chatcmpl-none"}, {"session_id": "s1"}, {"task_id": SAID}):
        aviary.call("/v1/feedback", {**target, "value": 1, **vote})
    aviary.call("/v1/feedback", {"session_id": "s1", "rating": SAID, **vote})
    aviary.call("/v1/chat/completions", {"model": "policy", "messages": asked}, authorization=SAID)


def test_canaries_are_found_nowhere(aviary: Aviary) -> None:
    sing(aviary)
    store = Store(aviary.redis)
    archive = aviary.directory / "d" / "archive"

    def is_quiet() -> bool:
        counts = store.counts()
        return counts["archived"] > 20 and counts["archived"] >= counts["trajectories"]

    eventually(is_quiet, 60)
    eventually(lambda: b"".join(aviary.collecting.spans).count(b"ratchet.transition.id") > 25)
    log = (aviary.directory / "loop.log").read_text()
    places = {
        "errors": "\n".join(aviary.errors).encode(),
        "log": log.encode(),
        "metrics": aviary.client.get("/metrics").content,
        "redis": in_redis(aviary.redis),
        "archive": in_files(archive),
        "spool": in_files(aviary.settings.spool_dir),
        "spans": b"".join(aviary.collecting.spans),
    }
    assert len(aviary.errors) > 15
    assert b"[redacted:api_key]" in places["redis"]
    assert b"[redacted:api_key]" in places["archive"]
    assert b"<EMAIL_1>" in places["archive"]
    for where, found in places.items():
        for what, secret in {**SECRETS, "client key": aviary.key}.items():
            at = found.find(secret.encode())
            assert at < 0, f"{what} in {where}: {found[max(0, at - 300) : at + 100]!r}"
    for where in ("errors", "log", "metrics", "spans", "archive"):
        for person in PEOPLE:
            assert person.encode() not in places[where], f"{person} in {where}"
    for prompt in ("You said", "[redacted"):
        assert prompt not in log


def test_canaries_are_in_no_training_row(aviary: Aviary) -> None:
    store, settings = Store(aviary.redis), aviary.settings
    asked = [{"role": "user", "content": f"My mail is {PEOPLE[0]}."}]
    aviary.engine.fault = None
    aviary.engine.reply = lambda model, messages: "Thank you."
    aviary.call("/t/person/v1/chat/completions", {"model": "policy", "messages": asked})
    aviary.call(
        "/t/plain/v1/chat/completions",
        {"model": "policy", "messages": [{"role": "user", "content": "hello"}]},
        **{"x-session-id": "plain"},
    )
    for session in ("person", "plain"):
        aviary.call(f"/t/{session}/v1/feedback", {"value": 1, "final": True})
    for name, fields in {
        "untrained": {"is_trainable": False},
        "silent": {"is_recorded": False},
    }.items():
        _, key = KeyStore(aviary.redis).create(
            name=name, scopes=["inference", "feedback"], now=time.time(), **fields
        )
        eventually(
            lambda key=key, name=name: (
                aviary.client.post(
                    f"/t/{name}/v1/chat/completions",
                    json={
                        "model": "policy",
                        "messages": [{"role": "user", "content": f"I am {name}"}],
                    },
                    headers={"authorization": f"Bearer {key}"},
                ).status_code
                == 200
            )
        )
        aviary.call(f"/t/{name}/v1/feedback", {"value": 1, "final": True})
    selection = selection_for(settings, "sft", 0)
    batch = eventually(
        lambda: look(store, settings, selection).samples and look(store, settings, selection)
    )
    for reason in (Exclusion.PERSONAL, Exclusion.OPTED_OUT):
        eventually(lambda reason=reason: look(store, settings, selection).excluded[reason])
    trajectories = {sample.trajectory for sample in batch.samples}
    for ref in trajectories:
        found = store.trajectory(TrajectoryRef.parse(ref))
        assert found is not None
        text = found.model_dump_json()
        assert "[redacted" not in text
        assert not any(person in text for person in PEOPLE)
        assert "I am untrained" not in text
    assert b"I am untrained" in in_redis(aviary.redis)
    assert b"I am silent" not in in_redis(aviary.redis)
    assert b"I am silent" not in in_files(settings.spool_dir)
