"""What `HotProtocol` takes from uvicorn: an upgrade that changes it fails here, and says where."""

import asyncio
import inspect
import re
import tomllib
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httptools
import pytest
import uvicorn
from packaging.requirements import Requirement
from packaging.version import Version
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from gateway.clock import tick
from gateway.services import Services
from gateway.wire.protocol import HotCycle, HotProtocol
from tests.fakes.wire import wire_to
from tests.gateway.conftest import Running, wait_for
from tests.gateway.test_faults_client import request
from tests.gateway.test_outbox import Wire, gathering

READ_AGAIN = "read gateway/wire/protocol.py beside uvicorn's httptools_impl.py, then change this"

# What is overridden, or called by way of `super()`: its parameters.
METHODS = {
    "__init__": ["self", "config", "server_state", "app_state", "_loop"],
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "eof_received": ["self"],
    "data_received": ["self", "data"],
    "send_400_response": ["self", "msg"],
    "on_message_begin": ["self"],
    "on_url": ["self", "url"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
}
# Attributes that uvicorn's protocol keeps, and ours reads or writes.
ATTRIBUTES = {
    "app_state",
    "connections",
    "cycle",
    "expect_100_continue",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "server_state",
    "transport",
    "url",
}
# What uvicorn's protocol looks at in the cycle that stands in `self.cycle`.
OF_A_CYCLE = {"body", "disconnected", "keep_alive", "message_event", "response_complete"}
NEVER_OF_OURS = {"more_body"}  # asked in `on_message_complete`, which ours answers itself


def test_the_version_of_uvicorn_is_one_that_was_read() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["gateway"]]
    named = [Requirement(line) for line in listed]
    (wanted,) = [entry for entry in named if entry.name == "uvicorn"]
    assert Version(version("uvicorn")) in wanted.specifier, READ_AGAIN
    # These cut open streams when they are told to stop.
    assert not {"0.43.0", "0.44.0"} & set(wanted.specifier.filter(["0.43.0", "0.44.0"]))


def test_the_methods_of_uvicorns_protocol_are_those_we_know() -> None:
    for name, parameters in METHODS.items():
        found = getattr(HttpToolsProtocol, name)
        assert list(inspect.signature(found).parameters) == parameters, (name, READ_AGAIN)
    # mypyc overrides some of what every object has.
    ours = {name for name in vars(HotProtocol) if callable(vars(HotProtocol)[name])}
    of_any = set(dir(object)) - {"__init__"}
    overridden = {name for name in ours - of_any if hasattr(HttpToolsProtocol, name)}
    assert overridden <= set(METHODS), READ_AGAIN


async def test_what_was_answered_leaves_before_its_connection_is_closed(running: Running) -> None:
    notes: list[tuple[str, bytes]] = []
    outbox = await gathering(notes)

    class Closing(Wire):
        def close(self) -> None:
            self.notes.append(("closed", b""))

    config = uvicorn.Config(app=lambda: None)  # type: ignore[arg-type]
    config.load()
    services = replace(running.services, outbox=outbox)
    protocol = HotProtocol(
        config=config, server_state=ServerState(), app_state={"gateway": services}
    )
    protocol.transport = wire = cast(Any, Closing(notes))
    outbox.write(wire, b"before the end")
    protocol.eof_received()  # the client has half-closed: then the loop closes
    outbox.write(wire, b"before the stop")
    protocol.shutdown()
    assert notes == [("wire", b"before the end"), ("wire", b"before the stop"), ("closed", b"")]


def test_the_attributes_of_uvicorns_protocol_are_those_we_know() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    for name in ATTRIBUTES:
        assert f"self.{name}" in source, (name, READ_AGAIN)
    assert "if self.cycle is None or self.cycle.response_complete" in source, READ_AGAIN


def test_our_cycle_has_what_uvicorn_asks_of_one() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    asked = set(re.findall(r"self\.cycle\.(\w+)", source))
    assert asked == OF_A_CYCLE | NEVER_OF_OURS, READ_AGAIN
    cycle = inspect.getsource(RequestResponseCycle)
    for name in OF_A_CYCLE:
        assert hasattr(HotCycle, name), (name, READ_AGAIN)
        assert f"self.{name}" in cycle, (name, READ_AGAIN)
    HotCycle.message_event.set()


def test_what_else_is_taken_from_uvicorn_is_there() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert set(range(200, 600)) <= set(STATUS_LINE)
    for name in ("pause_reading", "resume_reading", "pause_writing", "resume_writing"):
        assert list(inspect.signature(getattr(FlowControl, name)).parameters) == ["self"], name
    parser = httptools.HttpRequestParser(object())
    for name in ("get_method", "get_http_version", "should_keep_alive", "should_upgrade"):
        assert callable(getattr(parser, name)), name


def test_a_protocol_without_our_services_is_plain_uvicorn() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Transport(asyncio.Transport):
        written = b""

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

        def is_closing(self) -> bool:
            return False

        def write(self, data: Any) -> None:
            self.written += data

    async def talk() -> bytes:
        config = uvicorn.Config(answer, http=HotProtocol, log_level="error")
        protocol = HotProtocol(config=config, server_state=ServerState(), app_state={})
        transport = Transport()
        protocol.connection_made(transport)
        protocol.data_received(request("hi"))
        await asyncio.sleep(0.01)
        protocol.pause_writing()
        protocol.resume_writing()
        protocol.connection_lost(ConnectionResetError())
        return transport.written

    assert asyncio.run(talk()).startswith(b"HTTP/1.1 204 No Content\r\n")


def test_a_thousand_idle_connections_cost_one_look_each(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    plain = HotProtocol.on_tick

    def on_tick(self: HotProtocol, now: float) -> None:
        looks.append(id(self))
        plain(self, now)

    count = 1000
    assert running.client.get("/healthz").status_code == 200
    with ExitStack() as stack:
        clients = [stack.enter_context(wire_to(running.url)) for _ in range(count)]
        for client in clients:
            client.send(request("hi"))
            assert client.read().status == 200
        wait_for(lambda: len(running.services.connections) == count + 1)
        assert running.services.exchanges == set()
        monkeypatch.setattr(HotProtocol, "on_tick", on_tick)
        wait_for(lambda: len(looks) > 3 * count)
        monkeypatch.undo()
        rounds = len(looks) / len(set(looks))
        assert len(set(looks)) == count + 1
        assert 2 <= rounds <= len(looks) / count
        clients[0].send(request("still there"))
        assert clients[0].read().status == 200
    wait_for(lambda: len(running.services.connections) <= 1)


async def test_the_clock_looks_at_everything_and_survives_its_changes() -> None:
    class Looked:
        def __init__(self, among: set[Any]) -> None:
            self.count = 0
            self.among = among

        def on_tick(self, now: float) -> None:
            self.count += 1
            self.among.discard(self)  # what ends is taken out while it is looked at

    parts = SimpleNamespace(exchanges=set(), connections=set(), servers={})
    looked = [Looked(parts.exchanges), Looked(parts.connections)]
    parts.exchanges.add(looked[0])
    parts.connections.add(looked[1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.35):
            await tick(cast(Services, parts))
    assert [entry.count for entry in looked] == [1, 1]
