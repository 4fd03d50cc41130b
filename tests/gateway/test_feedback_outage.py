"""Redis killed while votes come: each is taken, and has one effect when Redis is back."""

from collections.abc import Callable
from threading import Event

from tests.gateway.conftest import RedisServer, Running, wait_for
from trajectories import keys
from trajectories.connection import connect
from trajectories.ids import trajectory_id
from trajectories.settings import RedisSettings
from workers.dispatcher import Dispatcher
from workers.timing import Timing


def test_votes_that_came_while_redis_was_away_have_one_effect(
    start: Callable[..., Running], redis_server: RedisServer
) -> None:
    settings = RedisSettings(url=redis_server.url, timeout_seconds=1)
    running = start(redis=connect(settings))
    response_id = running.chat(session_id="s1").json()["id"]
    redis_server.kill()
    body = {"response_id": response_id, "value": 1, "id": "fb-1"}
    answers = [running.client.post("/v1/feedback", json=body) for _ in range(2)]
    other = running.client.post("/v1/feedback", json={**body, "value": -1})
    wrong = running.client.post("/v1/feedback", json={**body, "id": "fb-2", "value": -1})
    assert [answer.status_code for answer in (*answers, other, wrong)] == [202] * 4
    assert {answer.json()["status"] for answer in answers} == {"pending"}
    assert running.client.delete("/v1/feedback/fb-2").json()["status"] == "retracted"
    redis_server.start()
    wait_for(lambda: running.services.spool.unshipped == 0, 20)

    redis = connect(settings)
    dispatcher = Dispatcher(
        redis,
        connect(settings, blocking_seconds=1),
        label_window_seconds=600,
        timing=Timing(block=0.1),
    )
    trajectory = trajectory_id("default", session="s1", task=None)

    def votes() -> dict[str, object]:
        dispatcher.step(Event())
        items = running.services.store.items("default", ["fb-1", "fb-2"])
        return {item.id: (item.status, item.vote and item.vote.value) for item in items}

    wanted = {"fb-1": ("attached", 1.0), "fb-2": ("retracted", None)}
    wait_for(lambda: votes() == wanted, 20)
    assert redis.hlen(keys.feedback_of("default", trajectory)) == 2
    assert running.client.get("/v1/feedback/fb-1").json()["training"] == "queued"
    redis.close()
