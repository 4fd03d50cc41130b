"""Many votes at once: each answered, one write, and nothing lost by sending it again."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.conftest import Running
from trajectories.connection import Redis
from trajectories.model import Feedback

BATCH = "/v1/feedback/batch"


def test_each_item_has_its_own_answer(running: Running) -> None:
    items: list[Any] = [
        {"session_id": "s1", "value": 1, "id": "a"},
        {"session_id": "s1"},
        7,
        {"session_id": "s1", "value": 1, "id": "a"},
        {"session_id": "s1", "value": -1, "id": "a"},
        {"session_id": "s2", "value": 1, "metadata": {"k": [[[]]]}},
    ]
    answer = running.client.post(BATCH, json=items)
    assert answer.status_code == 200
    content = answer.json()
    assert (content["accepted"], content["rejected"]) == (3, 3)
    results = content["results"]
    assert [result["index"] for result in results] == list(range(6))
    assert [result["status"] for result in results] == [202, 422, 400, 200, 422, 202]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "bad_value", "bad_json", None, "id_reused", None]
    assert results[0]["state"] == "pending"
    assert len(running.records(Feedback)) == 2


def test_lines_are_a_batch_as_well(running: Running) -> None:
    lines = b'{"session_id":"s1","value":1}\n\n{"session_id":"s1"\n{"session_id":"s2","value":0}\n'
    answer = running.client.post(
        BATCH, content=lines, headers={"content-type": "application/x-ndjson; charset=utf-8"}
    )
    assert [result["status"] for result in answer.json()["results"]] == [202, 400, 202]


def test_a_batch_is_one_write(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = os.writev

    def writev(descriptor: int, buffers: list[bytes]) -> int:
        writes.append(len(buffers))
        return write(descriptor, buffers)

    monkeypatch.setattr(os, "writev", writev)
    items = [{"session_id": f"s{number}", "value": 1} for number in range(400)]
    assert running.client.post(BATCH, json=items).json()["accepted"] == 400
    assert writes == [800], "a header and a payload for each, in one call"
    assert len(running.records(Feedback)) == 400


def test_of_two_minds_in_one_batch_the_later_stands(running: Running) -> None:
    items = [{"session_id": "s1", "value": value} for value in (1, -1)]
    running.client.post(BATCH, json=items)
    first, second = running.records(Feedback)
    assert first.received_at < second.received_at


def test_what_is_no_batch_is_refused(running: Running) -> None:
    for content, status, code in (
        (b"{}", 400, "bad_json"),
        (b"[", 400, "bad_json"),
        (json.dumps([{}] * 1001).encode(), 413, "too_large"),
        (b"[" + b" " * (8 * 1024 * 1024) + b"]", 413, "too_large"),
    ):
        answer = running.client.post(BATCH, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
    item = {"session_id": "s1", "value": 1, "metadata": {"k": "x" * 300_000}}
    (result,) = running.client.post(BATCH, json=[item]).json()["results"]
    assert (result["status"], result["error"]["code"]) == (413, "too_large")
    assert running.client.post(BATCH, json=[]).json()["results"] == []


def test_without_redis_a_batch_is_taken_unseen(start: Callable[..., Running]) -> None:
    running = start(redis=Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2))
    items = [{"session_id": f"s{number}", "value": 1} for number in range(50)]
    answer = running.client.post(BATCH, json=items).json()
    assert {result["state"] for result in answer["results"]} == {"pending"}
    assert len(running.records(Feedback)) == 50
