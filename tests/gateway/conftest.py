"""A gateway on a real port, in a thread, before the fake engine; fakeredis by default."""

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeredis
import httpx2
import pytest
import uvicorn

from gateway.app import create_app
from gateway.services import Services
from gateway.spool.payload import shipped
from gateway.spool.segments import list_segments, read_frames
from gateway.spool.writer import Spool
from gateway.wire.protocol import HotProtocol
from ratchet.redis_server import find_server
from tests.fakes.vllm import FakeVLLM
from trajectories.connection import AsyncRedis, Redis
from trajectories.model import Feedback, Transition, unpack_record
from trajectories.registry import Registry
from trajectories.settings import Settings


@dataclass
class Running:
    """A gateway that serves."""

    url: str
    services: Services
    client: httpx2.Client
    fake: FakeVLLM
    redis: Redis

    @property
    def registry(self) -> Registry:
        """Of the default policy."""
        settings = self.services.settings
        return Registry(self.redis, settings.policy, settings.upstream.base_model)

    def chat(self, path: str = "/v1/chat/completions", **body: Any) -> httpx2.Response:
        content = {"model": "policy", "messages": [{"role": "user", "content": "hi"}], **body}
        headers = content.pop("headers", {})
        return self.client.post(path, json=content, headers=headers)

    def records(self, kind: type[Any] = Transition) -> list[Any]:
        """What is in the spool, in order."""
        found: list[Transition | Feedback] = []
        for segment in list_segments(self.services.spool.directory):
            found += [unpack_record(shipped(frame.payload)) for frame in read_frames(segment)]
        return [record for record in found if isinstance(record, kind)]


def wait_for(condition: Callable[[], Any], seconds: float = 5) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} seconds: {condition}")


def open_spool(root: Path, budget: int = 1 << 24, segment: int = 1 << 20) -> Spool:
    return Spool.open(root, budget_bytes=budget, segment_bytes=segment)


def shipping_client(redis: Redis) -> AsyncRedis:
    """A shipper's client for the same Redis, fake or real."""
    place = redis.connection_pool.connection_kwargs
    if isinstance(redis, fakeredis.FakeRedis):
        known = {name: place[name] for name in ("server", "host", "port", "version")}
        return fakeredis.FakeAsyncRedis(**known)
    return AsyncRedis(host=place["host"], port=place["port"], retry=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(directory: Path, upstream_url: str, **sections: Any) -> Settings:
    """Settings with short time-outs; keyword sections are merged over them."""
    upstream = {
        "url": upstream_url,
        "first_byte_seconds": 5,
        "idle_seconds": 5,
        "connect_seconds": 2,
    }
    upstream.update(sections.pop("upstream", {}))
    gateway = {"shutdown_seconds": 2, "spool_mb": 64, **sections.pop("gateway", {})}
    return Settings(data_dir=directory, upstream=upstream, gateway=gateway, **sections)


SHELLS = {"protocol": HotProtocol, "twin": "httptools"}


@contextmanager
def serving(app: Any, shell: str = "protocol") -> Iterator[str]:
    """The app under uvicorn in a thread, calls answered by either shell."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="error",
        ws="none",
        http=SHELLS[shell],
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 10)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)


@pytest.fixture
def shell() -> str:
    """Which way calls come in; a module that holds for both parametrises it."""
    return "protocol"


@pytest.fixture
def start(tmp_path: Path, shell: str) -> Iterator[Callable[..., Running]]:
    """Start gateways: `start(gateway={...}, upstream={...}, redis=...)`."""
    with ExitStack() as stack:

        def run(
            redis: Redis | None = None, fake: FakeVLLM | None = None, **sections: Any
        ) -> Running:
            engine = fake or stack.enter_context(FakeVLLM().serve())
            settings = settings_for(tmp_path, engine.url, **sections)
            store = redis if redis is not None else fakeredis.FakeRedis()
            app = create_app(settings, redis=store, shipping=shipping_client(store))
            url = stack.enter_context(serving(app, shell))
            client = stack.enter_context(httpx2.Client(base_url=url, timeout=20))
            return Running(url, app.state.services, client, engine, store)

        yield run


@pytest.fixture
def running(start: Callable[..., Running]) -> Running:
    return start()


@dataclass
class RedisServer:
    """A real redis-server that can be killed and started again."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        place = ["--port", str(self.port), "--dir", str(self.directory)]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self.process = subprocess.Popen(
            [find_server(), *place, *durable, "--loglevel", "warning"], stdout=subprocess.DEVNULL
        )
        client = Redis.from_url(self.url)
        wait_for(lambda: _answers(client), 10)
        client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except Exception:
        return False


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "redis"
    directory.mkdir()
    server = RedisServer(directory, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()
