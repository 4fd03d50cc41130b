"""The C program: it answers as the fake of vLLM does, and sees what is wrong with an answer."""

import json
import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gateway_bench import traffic
from benchmarks.gateway_bench.errors import BenchmarkError
from benchmarks.gateway_bench.wire import Load, compiled, run_load, run_queue, upstream
from tests.fakes.vllm import FakeVLLM

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)
EVERYTHING = {
    "return_token_ids": True,
    "logprobs": True,
    "stream_options": {"include_usage": True},
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def port(program: Path) -> Iterator[int]:
    with upstream(program) as found:
        yield found


def ask(url: str, **more: Any) -> bytes:
    body = {"model": "base", "messages": [{"role": "user", "content": "Hello"}], **more}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        found: bytes = response.read()
    return found


def events(raw: bytes) -> list[Any]:
    """The events of a stream, which has to end with [DONE]."""
    lines = raw.decode().removesuffix("\n\n").split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def shape(value: Any) -> Any:
    """Keys in order, and what kind of value stands behind each; lists by their first entry."""
    if isinstance(value, dict):
        return [(key, shape(entry)) for key, entry in value.items()]
    if isinstance(value, list):
        return [shape(entry) for entry in value[:1]]
    return type(value).__name__


def send(program: Path, port: int, name: str, **more: Any) -> Load:
    scenario = traffic.scenario_named(name, 1000)
    return run_load(
        program,
        traffic.request(scenario, model="base", api_key="k"),
        port=port,
        **{"clients": 2, "is_stream": scenario.is_stream, "requests": 6, **more},
    )


@contextmanager
def answering(raw: bytes) -> Iterator[int]:
    """A server that answers the first request of each connection with `raw` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        connection.sendall(raw)

        threading.Thread(target=run, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@needs_compiler
@pytest.mark.parametrize("wishes", [{}, {"return_token_ids": True, "logprobs": True}])
def test_a_whole_answer_has_the_keys_of_vllm_in_their_order(
    port: int, wishes: dict[str, Any]
) -> None:
    with FakeVLLM().serve() as fake:
        theirs = json.loads(ask(fake.url, **wishes))

    ours = json.loads(ask(f"http://127.0.0.1:{port}", **wishes))

    assert shape(ours) == shape(theirs)


@needs_compiler
@pytest.mark.parametrize("wishes", [{}, EVERYTHING])
def test_the_chunks_of_a_stream_have_the_keys_of_vllm_in_their_order(
    port: int, wishes: dict[str, Any]
) -> None:
    with FakeVLLM().serve() as fake:
        theirs = events(ask(fake.url, stream=True, **wishes))

    ours = events(ask(f"http://127.0.0.1:{port}", stream=True, **wishes))

    assert len(ours) == traffic.STREAM_EVENTS + bool(wishes)
    for position in (0, 1, -2, -1):  # the role, a word, the end or the last word, usage or the end
        assert shape(ours[position]) == shape(theirs[position])


@needs_compiler
def test_ids_and_logprobs_of_an_answer_are_as_many_as_its_tokens(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    choice = json.loads(ask(url, **EVERYTHING))["choices"][0]
    chunks = events(ask(url, stream=True, **EVERYTHING))

    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
    pieces = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert re.fullmatch(r"\d{16}" + "".join(pieces), choice["message"]["content"])
    tokens = [chunk["choices"][0] for chunk in chunks[1:-1]]
    assert [len(token["token_ids"]) for token in tokens] == [1] * len(tokens)
    assert chunks[-1]["usage"]["completion_tokens"] == len(tokens)


@needs_compiler
def test_a_plain_answer_is_a_kilobyte_and_each_has_an_id_of_its_own(port: int) -> None:
    answers = [ask(f"http://127.0.0.1:{port}") for _ in range(2)]

    assert all(950 <= len(answer) <= 1100 for answer in answers)
    assert len({json.loads(answer)["id"] for answer in answers}) == 2


@needs_compiler
@pytest.mark.parametrize("name", ["json", "burst", "paced"])
def test_every_request_is_answered_and_timed(program: Path, port: int, name: str) -> None:
    found = send(program, port, name, events=traffic.STREAM_EVENTS + 1)

    assert (found.count, found.errors, found.first_error) == (6, 0, "")
    assert found.chunks == (0 if name == "json" else 6 * (traffic.STREAM_EVENTS + 1))
    assert 0 < found.first_p50_us <= found.p50_us <= found.p99_us


@needs_compiler
def test_paced_events_arrive_one_by_one(program: Path, port: int) -> None:
    paced = send(program, port, "paced", clients=1, requests=1)
    burst = send(program, port, "burst", clients=1, requests=1)

    assert paced.reads > traffic.STREAM_EVENTS // 2 > burst.reads


@needs_compiler
@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}", "status"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "no body"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "not the answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{}", "closed before the end"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "not HTTP as we read it"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_what_was_wrong(
    program: Path, raw: bytes, fault: str
) -> None:
    with answering(raw) as port:
        found = send(program, port, "json", clients=1, requests=1)

    assert (found.count, found.errors) == (0, 1)
    assert found.first_error.startswith(fault)


@needs_compiler
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'data: {"a":1}\n\ndata: [DONE]\n\n', "events missing"),
        (b'data: {"a":1}\n\n' * 60, "no [DONE]"),
    ],
)
def test_a_stream_that_lost_something_is_an_error(program: Path, body: bytes, fault: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"

    with answering(raw % (len(body), body)) as port:
        found = send(program, port, "burst", clients=1, requests=1, events=50)

    assert (found.count, found.errors) == (0, 1)
    assert found.first_error.startswith(fault)


@needs_compiler
def test_an_answer_that_never_comes_is_an_error(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = send(
            program, silent.getsockname()[1], "json", clients=1, requests=1, limit_seconds=0.2
        )

    assert (found.errors, found.first_error.split(":")[0]) == (1, "no answer in time")


@needs_compiler
def test_every_request_carries_a_number_of_its_own(program: Path) -> None:
    with FakeVLLM().serve() as fake:
        fake.reply = lambda model, messages: "Well"
        found = send(program, int(fake.url.rpartition(":")[2]), "json", clients=3, requests=9)

    asked = {seen.body["messages"][-1]["content"] for seen in fake.requests}
    assert (found.count, found.errors) == (9, 0)
    assert len(asked) == 9


def test_without_a_compiler_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BenchmarkError, match="install gcc or clang"):
        compiled(tmp_path)


@needs_compiler
def test_a_queue_is_sent_once_in_order_and_no_faster_than_asked(
    program: Path, tmp_path: Path
) -> None:
    scenario = traffic.scenario_named("json", 0)
    one = traffic.request(scenario, model="base", api_key="k")
    queue = tmp_path / "queue"
    queue.write_bytes(b"".join(len(one).to_bytes(4, "little") + one for _ in range(30)))
    with upstream(program) as port:
        seen = run_queue(program, queue, port=port, clients=3, rate=100.0, limit_seconds=20)
    assert (seen.count, seen.errors, seen.first_error) == (30, 0, "")
    assert seen.seconds >= 0.28  # the last of thirty is due after 29 hundredths


@needs_compiler
def test_a_queue_that_ends_in_the_middle_of_a_request_is_refused(
    program: Path, tmp_path: Path
) -> None:
    queue = tmp_path / "queue"
    queue.write_bytes((99).to_bytes(4, "little") + b"POST /")
    with upstream(program) as port, pytest.raises(BenchmarkError, match="queue"):
        run_queue(program, queue, port=port, clients=1, rate=10.0, limit_seconds=5)
