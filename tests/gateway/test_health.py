"""Health checks: two bad answers in a row take a replica out, one good one brings it back."""

import asyncio

from gateway.upstreams.balance import Replica
from gateway.upstreams.breaker import Breaker
from gateway.upstreams.health import BAD_SECONDS, GOOD_SECONDS, is_well, watch
from trajectories.errors import EngineError
from trajectories.settings import BreakerSettings


class Script:
    """Answers in order to each question; stops the watch when they run out."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.replica = Replica("http://engine:8000", Breaker(BreakerSettings()))
        self.answers = list(answers)
        self.seen: list[bool] = []
        self.slept: list[float] = []
        self.is_over = asyncio.Event()

    async def ask(self, url: str) -> bool:
        assert url == self.replica.url
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seen.append(self.replica.is_healthy)
        if not self.answers:
            self.is_over.set()
            await asyncio.Event().wait()

    async def run(self) -> None:
        task = asyncio.create_task(watch([self.replica], self.ask, sleep=self.sleep))
        await asyncio.wait_for(self.is_over.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_two_bad_answers_in_a_row_take_it_out_and_one_good_brings_it_back() -> None:
    script = Script(True, False, True, False, False, False, True)
    await script.run()
    assert script.seen == [True, True, True, True, False, False, True]


async def test_refused_connections_and_errors_are_bad_answers() -> None:
    script = Script(ConnectionRefusedError(), EngineError("no"), True)
    await script.run()
    assert script.seen == [True, False, True]


async def test_one_that_is_not_known_good_is_asked_more_often() -> None:
    script = Script(True, False, False, True)
    await script.run()
    expected = [GOOD_SECONDS, BAD_SECONDS, BAD_SECONDS, GOOD_SECONDS]
    assert all(
        0.75 * usual <= slept <= 1.25 * usual
        for slept, usual in zip(script.slept, expected, strict=True)
    )


async def test_silence_is_a_bad_answer() -> None:
    async def never(url: str) -> bool:
        await asyncio.Event().wait()
        return True

    assert not await is_well("http://engine:8000", never, limit_seconds=0.01)


async def test_each_replica_is_watched_on_its_own() -> None:
    replicas = [Replica(f"http://{name}", Breaker(BreakerSettings())) for name in ("up", "down")]
    asked: list[str] = []
    is_over = asyncio.Event()

    async def ask(url: str) -> bool:
        asked.append(url)
        if url == "http://up":
            await asyncio.Event().wait()  # hangs: nobody else may wait for it
        return False

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        if asked.count("http://down") >= 3:
            is_over.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(watch(replicas, ask, sleep=sleep))
    await asyncio.wait_for(is_over.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [one.is_healthy for one in replicas] == [True, False]
