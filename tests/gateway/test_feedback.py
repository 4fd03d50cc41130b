"""Feedback: every form, every refusal, early, late, twice, and without Redis."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.feedback_body import parse_feedback, reward_of
from gateway.training import Trigger, _queue
from tests.gateway.conftest import Running
from trajectories.connection import Redis
from trajectories.ids import trajectory_id
from trajectories.model import Feedback


def deliver(running: Running) -> None:
    """What the dispatcher does: spool to store."""
    for record in running.records(object):
        if isinstance(record, Feedback):
            running.services.store.add_feedback(record)
        else:
            running.services.store.add_transition(record)


def post(running: Running, path: str = "/v1/feedback", **body: Any) -> Any:
    return running.client.post(path, json=body)


FORMS: list[tuple[dict[str, Any], float | None]] = [
    ({"value": True}, 1), ({"value": False}, -1), ({"value": 1}, 1), ({"value": 0.9}, 0.9),
    ({"value": 7}, None), ({"value": "great"}, None), ({"thumb": "up"}, 1),
    ({"thumb": "down"}, -1), ({"reward": -0.5}, -0.5), ({"rating": 1}, -1), ({"rating": 4}, 0.5),
    ({"rating": 5}, 1), ({"comment": "bad 5"}, None), ({"correction": "say this"}, None),
    ({"score": 0.25}, 0.25), ({"metric_name": "task_success", "value": True}, 1),
]  # fmt: skip


def test_every_form_is_taken_and_means_what_it_should(running: Running) -> None:
    for body, reward in FORMS:
        answer = post(running, session_id="s1", **body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["reward"] == reward, body
        assert answer.json()["status"] == "pending"
        assert answer.json()["trajectory_id"] == trajectory_id("default", session="s1", task=None)
    assert [item.reward for item in running.records(Feedback)] == [reward for _, reward in FORMS]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"value": 1}, "no_target"),
    ({"session_id": "a", "task_id": "b", "value": 1}, "many_targets"),
    ({"session_id": "a"}, "bad_value"),
    ({"session_id": "a", "value": 1, "reward": 1}, "bad_value"),
    ({"session_id": "a", "reward": 1.5}, "bad_value"),
    ({"session_id": "a", "reward": True}, "bad_value"),
    ({"session_id": "a", "reward": "nan"}, "bad_value"),
    ({"session_id": "a", "rating": 0}, "bad_value"),
    ({"session_id": "a", "thumb": "sideways"}, "bad_value"),
    ({"session_id": "a", "value": [1]}, "bad_value"),
    ({"session_id": "a", "value": "x" * 300}, "bad_value"),
    ({"session_id": "a", "value": 1, "name": "no spaces"}, "bad_value"),
    ({"session_id": "a", "value": 1, "source": {"type": "robot"}}, "bad_value"),
    ({"session_id": 5, "value": 1}, "bad_value"),
    ({"session_id": "a", "comment": "x" * 20_000}, "bad_value"),
    ({"value": 1, "score": 2, "session_id": "a"}, "bad_value"),
    ({"value": 1, "trajectory_id": "traj_x:rewards"}, "bad_value"),
    ({"value": 1, "episode_id": "traj_x:transitions"}, "bad_value"),
    ({"value": 1, "trajectory_id": "t" * 129}, "bad_value"),
    ({"value": 1, "response_id": "no spaces"}, "bad_value"),
    ({"value": 1, "session_id": " "}, "no_target"),
    ({"value": 1, "task_id": " "}, "no_target"),
]


def test_what_is_not_feedback_is_refused_with_a_code(running: Running) -> None:
    for body, code in REFUSED:
        answer = post(running, **body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.json()["error"]["code"] == code, body
        assert answer.headers["x-should-retry"] == "false"
    assert running.records(Feedback) == []


def test_a_vote_finds_its_response(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    early = post(running, response_id=response_id, thumb="up")
    assert (early.status_code, early.json()["status"]) == (202, "pending")
    deliver(running)
    late = post(running, inference_id=response_id, value=False, final=True, colour="red")
    assert late.json()["status"] == "attached"
    deliver(running)
    found = running.client.get(f"/v1/feedback/{late.json()['feedback_id']}").json()
    assert found["status"] == "attached"
    assert found["metadata"] == {"extra": {"colour": "red"}}
    trajectory = running.client.get("/v1/trajectories?session_id=s1").json()
    assert trajectory["id"] == late.json()["trajectory_id"]
    assert trajectory["is_closed"] is True
    assert trajectory["transitions"][0]["response_id"] == response_id
    by_id = running.client.get(f"/v1/trajectories/{trajectory['id']}")
    assert by_id.json() == trajectory


def test_the_url_prefix_is_the_target(running: Running) -> None:
    for path in ("/t/s9/v1/feedback", "/a/x/t/s9/feedback"):
        answer = post(running, path, value=1)
        assert answer.json()["trajectory_id"] == trajectory_id("default", session="s9", task=None)


def test_a_response_and_a_session_must_belong_together(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    deliver(running)
    assert post(running, response_id=response_id, session_id="s1", value=1).status_code == 202
    wrong = post(running, response_id=response_id, session_id="s2", value=1)
    assert wrong.json()["error"]["code"] == "target_conflict"


def test_the_same_id_twice_is_one_vote(running: Running) -> None:
    body = {"session_id": "s1", "value": 1, "id": "fb-1"}
    assert post(running, **body).status_code == 202
    deliver(running)
    assert post(running, **body).status_code == 200
    assert post(running, **{**body, "value": 0.5}).json()["error"]["code"] == "id_reused"
    by_header = running.client.post(
        "/v1/feedback", json={"session_id": "s1", "value": 1}, headers={"idempotency-key": "fb-1"}
    )
    assert by_header.status_code == 200
    assert len(running.records(Feedback)) == 1


def test_without_an_id_a_later_vote_replaces_the_earlier(running: Running) -> None:
    for value in (1, -1):
        post(running, session_id="s1", value=value)
    post(running, session_id="s1", value=1, source={"type": "judge", "id": "j"})
    post(running, session_id="s1", value=1, name="style")
    identities = [item.identity for item in running.records(Feedback)]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def test_strict_says_what_to_do_about_an_unknown_target(running: Running) -> None:
    answer = post(running, "/v1/feedback?strict=1", response_id="chatcmpl-nope", value=1)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_target"
    assert running.records(Feedback) == []
    assert running.client.get("/v1/feedback/nope").json()["error"]["code"] == "unknown_feedback"
    assert running.client.get("/v1/trajectories/nope").status_code == 404


def test_without_redis_feedback_is_still_taken(start: Callable[..., Running]) -> None:
    gone = Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2)
    running = start(redis=gone)
    answer = post(running, session_id="s1", value=1)
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert len(running.records(Feedback)) == 1
    assert post(running, "/v1/feedback?strict=1", session_id="s1", value=1).status_code == 503
    assert running.client.get("/v1/feedback/x").status_code == 503
    assert running.chat().status_code == 200
    assert running.client.get("/readyz").json()["status"] == "degraded"
    assert running.client.get("/training/status").json()["redis_available"] is False


def test_feedback_that_cannot_be_stored_is_never_a_202(start: Callable[..., Running]) -> None:
    running = start(gateway={"spool_mb": 1}, redis=Redis.from_url("redis://127.0.0.1:9/0"))
    while running.services.spool.size_bytes < 940_000:
        running.services.spool.put(b"x" * 50_000)
    answer = post(running, session_id="s1", correction="x" * 60_000, metadata={"k": "y" * 16_000})
    for _ in range(20):
        if answer.status_code != 202:
            break
        answer = post(running, session_id="s1", correction="x" * 60_000)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_stored"
    assert running.chat().status_code == 200


def test_a_trainer_is_asked_only_when_there_is_one(running: Running) -> None:
    status = running.client.get("/training/status").json()
    assert (status["trainer_available"], status["average_reward"]) == (False, None)
    assert status["policy"]["current"] == 0
    none = running.client.post("/training/trigger", json={"force": True})
    assert (none.status_code, none.json()["error"]["code"]) == (503, "no_trainer")
    running.redis.set(
        "trainer:policy:status", b'{"state":"training","last_run":{"id":"r1"},"at":1}'
    )
    status = running.client.get("/training/status").json()
    assert (status["state"], status["last_run"]) == ("training", {"id": "r1"})
    few = running.client.post("/training/trigger", json={})
    assert few.json()["error"]["code"] == "not_enough_data"
    queued = running.client.post("/training/trigger", json={"algo": "sft", "force": True})
    assert queued.status_code == 202
    again = running.client.post("/training/trigger", json={"force": True})
    assert again.json() == {"run_id": queued.json()["run_id"], "status": "already_running"}
    assert running.client.post("/training/trigger", json={"algo": "x"}).status_code == 422


def test_an_id_from_outside_reaches_no_other_key(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    post(running, response_id=response_id, value=1)
    deliver(running)
    wanted = trajectory_id("default", session="s1", task=None)
    for part in ("transitions", "feedback", "rewards"):
        assert running.client.get(f"/v1/trajectories/{wanted}:{part}").status_code == 404
    assert post(running, response_id="chatcmpl-a:b", value=1).status_code == 202


def test_a_vote_on_a_task_finds_the_session_that_worked_on_it(running: Running) -> None:
    early = post(running, task_id="t1", value=1)
    assert early.json()["status"] == "pending"
    response = running.chat(session_id="s1", task_id="t1")
    deliver(running)
    trajectory = response.headers["x-ratchet-trajectory-id"]
    late = post(running, task_id="t1", value=-1, name="style")
    assert (late.json()["status"], late.json()["trajectory_id"]) == ("attached", trajectory)
    both = post(running, task_id="t1", response_id=response.json()["id"], value=1, name="both")
    assert both.status_code == 202
    assert running.client.get("/v1/trajectories?task_id=t1").json()["id"] == trajectory
    assert (
        running.client.get(f"/v1/feedback/{early.json()['feedback_id']}").json()["trajectory_id"]
        == trajectory
    )


def test_of_two_wishes_for_a_round_at_the_same_time_one_stands(running: Running) -> None:
    wish = Trigger(force=True)
    first, second = (_queue(running.services, wish) for _ in range(2))
    assert (first[1], second) == (True, (first[0], False))


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "value": st.one_of(st.booleans(), st.floats(), st.text(max_size=9), st.integers()),
            "reward": st.floats(),
            "rating": st.floats(),
            "thumb": st.sampled_from(["up", "down", "left"]),
        },
    )
)
def test_a_reward_is_always_finite_and_in_range(body: dict[str, Any]) -> None:
    try:
        parsed = parse_feedback(json.dumps({"session_id": "s", **body}).encode())
    except ApiError:
        return  # refused: nothing gets in
    reward = reward_of(parsed)
    assert reward is None or -1 <= reward <= 1


def test_feedback_needs_no_more_than_a_line() -> None:
    with pytest.raises(ApiError):
        parse_feedback(b"{}")
    assert reward_of(parse_feedback(b'{"session_id":"s1","value":1}')) == 1.0
