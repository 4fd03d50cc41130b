"""The process itself: killed in the middle of a call, it has paid for it and never asks again."""

import signal
from pathlib import Path
from typing import Any

from tests.fakes.answering import answering
from tests.fakes.vllm import FakeVLLM
from tests.workers.conftest import Spawn, wait_for
from tests.workers.redis_server import RedisServer
from tests.workers.siblings.records import recorded
from tests.workers.siblings.test_worker import scored, spent
from trajectories.rollouts import HEADER
from trajectories.store import Store

SETTINGS = """
[upstream]
url = "{engine}"
[siblings]
enabled = true
share = 1.0
answers_per_day = 2
look_seconds = 0.1
url = "{gateway}"
"""


def test_a_killed_process_has_paid_for_what_it_asked_and_asks_it_once(
    server: RedisServer, spawn: Spawn, tmp_path: Path
) -> None:
    with server.client() as redis, FakeVLLM().serve() as engine, answering(_hang) as gateway:
        store = Store(redis)
        for number in range(3):
            scored(store, recorded(number, trajectory=f"traj_{number}"))
        written = SETTINGS.format(engine=engine.url, gateway=gateway.url)
        (tmp_path / "ratchet.toml").write_text(written)
        for asked in (1, 2):
            process = spawn("-m", "workers", "siblings")
            wait_for(lambda: len(gateway.asked) == asked)  # noqa: B023 - called here
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            assert spent(redis) == {"answers": asked, "tokens": asked * 2048}
        process = spawn("-m", "workers", "siblings")
        looks = engine.looks
        wait_for(lambda: engine.looks > looks + 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert [asked.headers[HEADER] for asked in gateway.asked] == [
            "default/tr_traj_0_0/0",
            "default/tr_traj_1_1/0",
        ]
        assert spent(redis)["answers"] == 2


def _hang(_: Any) -> str:
    return "hang"
