"""Traffic: sessions named in the URL, thumbs posted for them, failures kept apart from answers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from examples.arena.agents import Reply
from examples.arena.traffic import Traffic, measure
from examples.calculator.world import Calculator
from ratchet.demo.users import Habits

TALKATIVE = Calculator(habits=Habits(1.0, 1.0, slips=0.0, cap=1.0))


class Scripted:
    """Answers every question alike, and keeps what it was asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.urls: list[str] = []
        self.models: set[str] = set()

    async def ask(self, question: str, *, base_url: str, model: str) -> Reply:
        self.urls.append(base_url)
        self.models.add(model)
        return self.reply


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[str, list[Any]]]:
    posted: list[Any] = []

    async def feedback(request: web.Request) -> web.Response:
        posted.append(await request.json())
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1/feedback", feedback)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", posted
    await runner.cleanup()


async def test_a_thumb_is_about_the_session_that_the_agent_was_given(
    gateway: tuple[str, list[Any]],
) -> None:
    url, posted = gateway
    agent = Scripted(Reply("I cannot say."))
    traffic = Traffic(TALKATIVE, agent, url, seed=1)
    await traffic.run(30)
    sessions = {asked.removesuffix("/v1").rpartition("/")[2] for asked in agent.urls}
    assert all(asked.startswith(f"{url}/a/calculator/t/") for asked in agent.urls)
    assert len(sessions) == traffic.sessions == traffic.counts.thumbs == 30
    assert {thumb["session_id"] for thumb in posted} == sessions
    assert {thumb["thumb"] for thumb in posted} == {"down"}
    assert [(point.sessions, point.accuracy) for point in traffic.curve] == [(25, 0.0)]


async def test_who_got_no_answer_gives_no_thumb(gateway: tuple[str, list[Any]]) -> None:
    url, posted = gateway
    traffic = Traffic(TALKATIVE, Scripted(Reply(None, "down", is_transport=True)), url, seed=1)
    await traffic.run(10)
    assert (traffic.sessions, traffic.counts.failed_sessions, posted) == (0, 10, [])


async def test_an_agent_that_gave_up_over_the_models_words_was_wrong(
    gateway: tuple[str, list[Any]],
) -> None:
    url, posted = gateway
    traffic = Traffic(TALKATIVE, Scripted(Reply(None, "ValueError: odd")), url, seed=1)
    await traffic.run(10)
    assert traffic.counts.raised == {"ValueError": 10}
    assert [thumb["thumb"] for thumb in posted] == ["down"] * 10


async def test_thumbs_that_nobody_took_are_counted(gateway: tuple[str, list[Any]]) -> None:
    traffic = Traffic(TALKATIVE, Scripted(Reply("no")), f"{gateway[0]}/elsewhere", seed=1)
    await traffic.run(5)
    assert (traffic.counts.thumbs, traffic.counts.failed_thumbs) == (0, 5)


async def test_measuring_asks_the_engine_itself_and_stops_at_a_failed_request() -> None:
    agent = Scripted(Reply("no"))
    assert await measure(TALKATIVE, agent, "http://engine", "policy-v1", 40, seed=1) == 0
    assert set(agent.urls) == {"http://engine/v1"}
    assert agent.models == {"policy-v1"}
    broken = Scripted(Reply(None, "down", is_transport=True))
    with pytest.raises(ExceptionGroup) as caught:
        await measure(TALKATIVE, broken, "http://engine", "policy-v1", 40, seed=1)
    assert caught.group_contains(RuntimeError, match="policy-v1 met a failed request")
