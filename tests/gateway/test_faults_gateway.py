"""What happens to the gateway itself (design: rows G1 to G6), with real processes and real kills.

Kept elsewhere: torn tails, short writes, rotations that fail and lost notes in
test_spool.py; kills of Redis and the required durability in test_durability.py.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from gateway.spool.payload import shipped
from gateway.spool.segments import list_segments, read_frames
from tests.fakes.vllm import FakeVLLM
from tests.fakes.wire import Wire, wire_to
from tests.gateway.conftest import RedisServer, Running, open_spool, wait_for
from tests.gateway.test_durability import Gateway, Load, assert_nothing_lost, gateway
from tests.gateway.test_durability import shipped as shipped_to
from tests.gateway.test_faults_client import request, streamed
from trajectories.model import Outcome, Transition, unpack_record

BODY = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}
NO_REDIS = "redis://127.0.0.1:9/0"


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with FakeVLLM().serve() as found:
        yield found


def spooled(directory: Path) -> list[Transition]:
    """Every transition on disk, whoever wrote it."""
    found: list[Transition] = []
    for place in sorted(path for path in (directory / "spool").iterdir() if path.is_dir()):
        for segment in list_segments(place):
            for frame in read_frames(segment):
                record = unpack_record(shipped(frame.payload))
                if isinstance(record, Transition):
                    found.append(record)
    return found


# -- G1: kill -9 -------------------------------------------------------------------------


def test_no_kill_at_any_moment_loses_what_was_answered(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    more = {"RATCHET_GATEWAY_HOT_PROTOCOL": "false"}  # the other shell: see test_durability.py
    with gateway(tmp_path / "d", fake.url, redis_server.url, **more) as served:
        with Load(served.url) as load:
            for count in (15, 40):
                load.wait_for_more(count)
                served.stop(signal.SIGKILL)
                served.start()
            load.wait_for_more(10)
        assert_nothing_lost(redis_server.url, load.received)


def test_a_killed_gateway_leaves_its_answers_on_disk(tmp_path: Path, fake: FakeVLLM) -> None:
    with gateway(tmp_path / "d", fake.url, NO_REDIS) as served:
        ids = []
        for is_streamed in (False, True):
            answer = httpx2.post(
                f"{served.url}/v1/chat/completions", json={**BODY, "stream": is_streamed}
            )
            ids.append(answer.headers["x-request-id"])
        fake.hold()
        with wire_to(served.url) as client:
            client.send(request(streamed("unfinished")))
            client.read_to(b"data: ")
            served.stop(signal.SIGKILL)
    records = spooled(tmp_path / "d")
    assert [record.id for record in records] == ids
    assert {record.outcome for record in records} == {Outcome.COMPLETE}


# -- G2, G3: told to stop ----------------------------------------------------------------


def begin_streams(served: Gateway, count: int) -> list[Wire]:
    """Clients in the middle of a stream."""
    host, port = "127.0.0.1", served.port
    found = []
    for _ in range(count):
        raw = socket.create_connection((host, port), timeout=20)
        found.append(Wire(raw))
        found[-1].send(request(streamed("hi")))
    for client in found:
        client.read_to(b"data: ")
    return found


@pytest.mark.parametrize("hot", ["true", "false"])
def test_a_hundred_open_streams_end_well_when_it_is_told_to_stop(
    tmp_path: Path, fake: FakeVLLM, hot: str
) -> None:
    fake.hold()
    more = {"RATCHET_GATEWAY_HOT_PROTOCOL": hot}
    with gateway(tmp_path / "d", fake.url, NO_REDIS, **more) as served, wire_to(served.url) as idle:
        idle.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.read().status == 200
        clients = begin_streams(served, 100)
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        assert idle.is_closed()
        with pytest.raises(OSError, match="refused"), wire_to(served.url):
            pass
        assert served.process.poll() is None
        fake.let_go()
        for client in clients:
            rest = client.read_to(b"0\r\n\r\n")
            assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert client.is_closed()
            client.close()
        assert served.process.wait(20) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    records = spooled(tmp_path / "d")
    assert [record.outcome for record in records] == [Outcome.COMPLETE] * 100


def test_what_outlasts_the_grace_is_told_so_and_incomplete(tmp_path: Path, fake: FakeVLLM) -> None:
    """In the other shell; the usual one is held by test_durability.py."""
    fake.hold()
    more = {"RATCHET_GATEWAY_SHUTDOWN_SECONDS": "1", "RATCHET_GATEWAY_HOT_PROTOCOL": "false"}
    with gateway(tmp_path / "d", fake.url, NO_REDIS, **more) as served:
        (client,) = begin_streams(served, 1)
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        rest = b""
        with suppress(OSError):
            while piece := client.socket.recv(65536):
                rest += piece
        client.close()
        assert b"gateway_stopping" in rest
        assert b"[DONE]" not in rest
        served.process.wait(10)
    (record,) = spooled(tmp_path / "d")
    assert record.outcome == Outcome.INCOMPLETE
    assert record.error == "the gateway is shutting down"


# -- G4, G5: a disk that fails -----------------------------------------------------------

FULL = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from gateway.__main__ import main
size = int(os.environ.pop("FILE_BYTES"))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
sys.argv = ["gateway"]
sys.exit(main())
"""


@pytest.mark.parametrize("durability", ["best_effort", "required"])
def test_a_full_disk_costs_records_or_answers_but_never_the_spool(
    tmp_path: Path, fake: FakeVLLM, durability: str
) -> None:
    """Files may grow to 64 KiB: the segment's end comes in the middle of a record."""
    more = {"RATCHET_GATEWAY_DURABILITY": durability, "FILE_BYTES": str(64 * 1024)}
    served = Gateway(tmp_path / "d", fake.url, NO_REDIS, **more)
    served.process = subprocess.Popen(
        [sys.executable, "-c", FULL], cwd=Path(__file__).parents[2], env=served._environment
    )
    try:
        wait_for(served._is_live, 30)
        body = {"model": "policy", "messages": [{"role": "user", "content": "x" * 10_000}]}
        answers = [httpx2.post(f"{served.url}/v1/chat/completions", json=body) for _ in range(12)]
        text = httpx2.get(f"{served.url}/metrics").text
    finally:
        served.stop(signal.SIGKILL)
    codes = [answer.status_code for answer in answers]
    kept = {record.id for record in spooled(tmp_path / "d")}
    answered = [a.headers["x-request-id"] for a in answers if a.status_code == 200]
    assert kept == set(answered[: len(kept)])
    assert 3 <= len(kept) < 12
    lost = len(answered) - len(kept)
    assert f"ratchet_records_dropped_total {lost}.0" in text
    if durability == "required":
        assert codes == [200] * (len(kept) + 1) + [503] * (11 - len(kept))
    else:
        assert codes == [200] * 12
    spool = open_spool(tmp_path / "d" / "spool")  # with space again
    number = spool.put(b"t{}")
    spool.close()
    frames = [f for path in list_segments(spool.directory) for f in read_frames(path)]
    assert (len(frames), frames[-1].sequence) == (len(kept) + 1, number)


@pytest.mark.parametrize("durability", ["best_effort", "required"])
def test_a_disk_that_fails_and_heals_is_used_again(
    start: Callable[..., Running], durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO and a file system that turned read-only look alike from here."""
    running = start(gateway={"durability": durability})
    assert running.chat().status_code == 200

    def fail(descriptor: int, parts: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "writev", fail)
        codes = [running.chat(stream=n % 2 == 0).status_code for n in range(3)]
    assert codes == [200] + ([200, 200] if durability == "best_effort" else [503, 503])
    wait_for(lambda: running.chat().status_code == 200)
    assert not running.services.recorder.is_failing
    assert len(running.records()) >= 2
    text = running.client.get("/metrics").text
    assert f"ratchet_records_dropped_total {codes.count(200)}.0" in text


# -- G6: power loss ----------------------------------------------------------------------


def test_records_after_a_power_cut_are_new_although_the_disk_lost_its_tail(
    tmp_path: Path, fake: FakeVLLM, redis_server: RedisServer
) -> None:
    """The last hundred records were in Redis already, and are gone from the disk."""
    with gateway(tmp_path / "d", fake.url, redis_server.url) as served:
        before = ask(served, 120)
        wait_for(lambda: len(shipped_to(redis_server.url)) == 120, 15)
        served.stop(signal.SIGKILL)
        (place,) = (tmp_path / "d" / "spool").iterdir()
        (segment,) = list_segments(place)
        whole = segment.stat().st_size
        os.truncate(segment, whole // 6)
        served.start()
        after = ask(served, 20)
        wait_for(lambda: len(shipped_to(redis_server.url)) >= 140, 15)
    ids = [record.id for record in shipped_to(redis_server.url)]
    assert sorted(ids) == sorted([*before, *after])


def ask(served: Gateway, count: int) -> list[str]:
    with httpx2.Client(base_url=served.url) as client:
        answers = [client.post("/v1/chat/completions", json=BODY) for _ in range(count)]
    return [answer.headers["x-request-id"] for answer in answers]
