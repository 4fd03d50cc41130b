"""Feedback: every form, every refusal, early, late, twice, and without Redis."""

import json
import math
import shlex
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.feedback_body import FeedbackBody, parse_feedback
from gateway.feedback_record import said_with, to_records
from gateway.training import Trigger, _queue
from tests.gateway.conftest import RedisServer, Running, wait_for
from trajectories import keys
from trajectories.connection import Redis
from trajectories.ids import trajectory_id
from trajectories.model import Feedback, Retraction
from trajectories.settings import JudgeSettings, RewardSettings
from trajectories.standing import standing_votes
from trajectories.store import TrajectoryRef


def deliver(running: Running) -> None:
    """What the dispatcher does: spool to store."""
    for record in running.records(object):
        if isinstance(record, Feedback):
            running.services.store.add_feedback(record)
        elif isinstance(record, Retraction):
            running.services.store.retract(record)
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
        assert answer.status_code == (200 if "metric_name" in body else 202), answer.text
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
    ({"value": 1, "session_id": "a", "choice": 1}, "no_target"),
    ({"value": 1, "response_id": "r1", "choice": -1}, "bad_value"),
    ({"value": 1, "response_id": "r1", "choice": "first"}, "bad_value"),
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


@pytest.mark.parametrize("change", ["ACL SETUSER default -@all +acl", "CONFIG SET requirepass x"])
def test_a_redis_that_lets_nobody_in_any_more_costs_no_call(
    redis_server: RedisServer, start: Callable[..., Running], change: str
) -> None:
    running = start(redis=Redis.from_url(redis_server.url))
    wait_for(lambda: running.client.get("/readyz").json()["status"] == "ready", 10)
    admin = Redis.from_url(redis_server.url)
    admin.execute_command(change)
    if "requirepass" in change:
        admin.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        admin.execute_command("CLIENT KILL TYPE pubsub")
    wait_for(lambda: running.client.get("/readyz").json()["status"] == "degraded", 10)
    assert running.chat().status_code == 200
    assert post(running, session_id="s1", value=1).status_code == 202
    for undo in ("ACL SETUSER default +@all", "CONFIG SET requirepass ''"):
        admin.execute_command(*shlex.split(undo))
    wait_for(lambda: running.client.get("/readyz").json()["status"] == "ready", 10)
    producer = running.services.spool.producer
    wait_for(lambda: admin.xlen(keys.traffic(producer)) >= 2, 20)


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


def test_a_full_spool_is_told_whichever_way_a_vote_comes(start: Callable[..., Running]) -> None:
    running = start(gateway={"spool_mb": 1}, redis=Redis.from_url("redis://127.0.0.1:9/0"))
    running.services.redis = fakeredis.FakeRedis()  # for the key that signs
    token = running.client.post("/v1/feedback/tokens", json={"session_id": "s"}).json()["token"]
    running.services.spool.close()
    for method, path, body in (
        ("POST", "/v1/feedback", {"session_id": "s", "value": 1}),
        ("POST", "/v1/feedback/batch", [{"session_id": "s", "value": 1}] * 3),
        ("DELETE", "/v1/feedback/fb-1", None),
    ):
        answer = running.client.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_stored"), path
        assert answer.headers["retry-after"]
    assert running.client.post(f"/f/{token}", data={"v": "1"}).status_code == 503


def test_a_trainer_is_asked_only_when_there_is_one(running: Running) -> None:
    status = running.client.get("/training/status").json()
    assert (status["trainer_available"], status["average_reward"]) == (False, None)
    assert status["policy"]["current"] == 0
    none = running.client.post("/training/trigger", json={"force": True})
    assert (none.status_code, none.json()["error"]["code"]) == (503, "no_trainer")
    running.redis.set(
        "trainer:policy:status",
        b'{"state":"training","algorithms":["grpo","sft"],"last_run":{"id":"r1"},"at":1}',
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
    first, second = (
        _queue(running.services, running.services.policies.default, wish) for _ in range(2)
    )
    assert (first[1], second) == (True, (first[0], False))


def test_what_an_app_can_see_of_an_answer_names_it(running: Running) -> None:
    span = "00f067aa0ba902b7"
    parent = {"traceparent": f"00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01"}
    response = running.chat(session_id="s1", headers=parent)
    answer = response.json()
    deliver(running)
    said = answer["choices"][0]["message"]["content"]
    for target in (
        {"request_id": response.headers["x-request-id"]},
        {"span_id": response.headers["x-request-id"]},
        {"span_id": answer["id"]},
        {"span_id": span},
        {"output_text": f"  {said}\n"},
        {"session_id": "s1", "step": 0},
        {"session_id": "s1", "step": -1},
        {"response_id": answer["id"], "session_id": "s1"},
    ):
        found = post(running, value=1, **target)
        assert (found.status_code, found.json()["status"]) == (202, "attached"), target
        assert found.json()["step"] == 0, target
        assert found.json()["training"] == "queued", target
        assert found.json()["policy"] == 0, target
    deliver(running)
    ref = running.services.store.locate(
        TrajectoryRef("default", trajectory_id("default", session="s1", task=None))
    )
    assert ref is not None
    scorable = running.services.store.scorable(ref)
    assert scorable is not None
    assert len(scorable.feedback) == 8
    # All say the same of the same answer: one vote stands.
    assert len(standing_votes(scorable.trajectory.transitions, scorable.feedback)) == 1


def test_the_early_vote_finds_what_comes_later_by_every_name(running: Running) -> None:
    response = running.chat(session_id="s1")
    said = response.json()["choices"][0]["message"]["content"]
    for name, target in {
        "a": {"request_id": response.headers["x-request-id"]},
        "b": {"span_id": response.json()["id"]},
        "c": {"output_text": said},
        "d": {"session_id": "s1", "step": -1},
    }.items():
        early = post(running, value=1, name=name, **target)
        assert early.json()["status"] == "pending"
    deliver(running)
    listed = running.client.get("/v1/feedback").json()["data"]
    assert [item["status"] for item in listed] == ["attached"] * 4


def test_a_text_that_was_said_twice_is_ambiguous(running: Running) -> None:
    said = [running.chat(session_id=name).json() for name in ("s1", "s2")]
    texts = {answer["choices"][0]["message"]["content"] for answer in said}
    assert len(texts) == 1
    deliver(running)
    answer = post(running, output_text=texts.pop(), value=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "ambiguous_target")
    assert answer.json()["error"]["param"] == "output_text"
    within = post(running, output_text=said[0]["choices"][0]["message"]["content"],
                  session_id="s1", value=1)  # fmt: skip
    assert within.json()["status"] == "attached"


def test_a_step_that_is_not_there_is_said(running: Running) -> None:
    running.chat(session_id="s1")
    deliver(running)
    answer = post(running, session_id="s1", step=7, value=1).json()
    assert (answer["training"], answer["reason"]) == ("ignored", "step")
    refused = post(running, response_id="x", step=1, value=1)
    assert refused.json()["error"]["code"] == "many_targets"


def test_a_response_and_a_task_must_belong_together(running: Running) -> None:
    response_id = running.chat(session_id="s1", task_id="t1").json()["id"]
    deliver(running)
    assert post(running, span_id=response_id, task_id="t1", reward=1).status_code == 202
    wrong = post(running, span_id=response_id, task_id="t2", reward=1)
    assert wrong.json()["error"]["code"] == "target_conflict"


def test_what_training_will_make_of_a_vote_is_said(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    quiet = running.chat(session_id="s2", headers={"x-ratchet-no-train": "1"}).json()["id"]
    deliver(running)

    def fate(**body: Any) -> tuple[Any, Any]:
        answer = post(running, **body).json()
        return answer.get("training"), answer.get("reason")

    assert fate(response_id=response_id, value=7) == ("ignored", "no_range")
    assert fate(response_id=response_id, comment="so so") == ("ignored", "no_value")
    assert fate(response_id=response_id, correction="say this") == ("queued", None)
    assert fate(response_id=response_id, choice=0, value=1) == ("queued", None)
    assert fate(response_id=response_id, choice=1, value=1) == ("ignored", "choice")
    assert fate(response_id=quiet, value=1) == ("ignored", "opted_out")
    assert fate(response_id="chatcmpl-unknown", value=1) == (None, None)
    # The policy has moved on.
    versions = dict(running.services.policies.default.snapshot.versions)
    running.services.policies.default.snapshot = replace(
        running.services.policies.default.snapshot, current=9, versions=versions
    )
    assert fate(response_id=response_id, value=1) == ("replay_only", None)


def test_a_vote_that_was_taken_back_says_nothing_any_more(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    posted = post(running, response_id=response_id, value=-1, comment="bad").json()
    # Before it has arrived in the store, too.
    first = running.client.delete(f"/v1/feedback/{posted['feedback_id']}")
    assert (first.status_code, first.json()["status"]) == (200, "retracted")
    deliver(running)
    again = running.client.delete(f"/v1/feedback/{posted['feedback_id']}")
    assert (again.status_code, again.json()["status"]) == (200, "retracted")
    found = running.client.get(f"/v1/feedback/{posted['feedback_id']}").json()
    assert (found["status"], found["value"], found["comment"]) == ("retracted", None, None)
    assert found["received_at"]
    nothing = running.client.delete("/v1/feedback/nobody")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (404, "unknown_feedback")
    taken = [record.feedback_id for record in running.records(Retraction)]
    assert taken == [posted["feedback_id"], *said_with(posted["feedback_id"])]  # once


def test_what_was_trained_on_says_by_which_versions(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    posted = post(running, response_id=response_id, value=-1).json()
    deliver(running)
    ref = TrajectoryRef("default", trajectory_id("default", session="s1", task=None))
    running.services.store.note_trained("policy", 0, [ref])
    answer = running.client.delete(f"/v1/feedback/{posted['feedback_id']}").json()
    assert answer["used_by"] == [0]


def test_votes_are_listed_by_page_and_filtered(running: Running) -> None:
    for number in range(5):
        post(running, session_id=f"s{number % 2}", value=1, name=f"n{number}")
    post(running, session_id="s0", value=1, name="j", source={"type": "judge", "id": "ruler"})
    deliver(running)

    def names(query: str = "") -> list[str]:
        return [item["name"] for item in running.client.get(f"/v1/feedback{query}").json()["data"]]

    assert names() == ["j", "n4", "n3", "n2", "n1", "n0"]
    assert names("?session_id=s1") == ["n3", "n1"]
    assert names("?source=judge") == names("?source=ruler") == ["j"]
    assert names("?name=n2&status=pending") == ["n2"]
    assert names("?status=attached") == []
    pages, cursor = [], ""
    while cursor is not None:
        page = running.client.get(f"/v1/feedback?limit=4&after={cursor}").json()
        pages.append([item["name"] for item in page["data"]])
        cursor = page["next"]
    assert pages == [["j", "n4", "n3", "n2"], ["n1", "n0"]]
    assert running.client.get("/v1/feedback?after=nonsense").status_code == 422
    assert running.client.get("/v1/feedback?status=lost").status_code == 422


def test_a_changed_mind_leaves_a_history(running: Running) -> None:
    ids = [post(running, session_id="s1", value=value).json()["feedback_id"] for value in (1, -1)]
    running.chat(session_id="s1")
    deliver(running)
    found = running.client.get(f"/v1/feedback/{ids[1]}").json()
    assert [(entry["feedback_id"], entry["value"]) for entry in found["history"]] == [(ids[0], 1)]


def test_an_id_used_for_two_bodies_while_redis_was_away_is_the_first(running: Running) -> None:
    store = running.services.store
    for status, value in ((202, 1), (422, -1)):
        assert post(running, session_id="s1", value=value, id="fb-1").status_code == status
    (first,) = running.records(Feedback)
    second = first.model_copy(update={"value": -1.0, "reward": -1.0, "received_at": 9e9})
    running.chat(session_id="s1")
    store.add_feedback(second)
    deliver(running)
    assert running.client.get("/v1/feedback/fb-1").json()["value"] == 1


def test_too_many_that_wait_are_refused_for_a_while(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.feedback_desk.MOST_PENDING", 1)
    assert post(running, session_id="s1", value=1).status_code == 202
    deliver(running)
    answer = post(running, session_id="s2", value=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many")
    assert answer.headers["retry-after"]
    assert "x-should-retry" not in answer.headers


def test_a_vote_that_waited_in_vain_has_expired(running: Running) -> None:
    posted = post(running, session_id="s1", value=1).json()
    deliver(running)
    running.services.store.expire_pending(time.time() + 90_000)
    found = running.client.get(f"/v1/feedback/{posted['feedback_id']}").json()
    assert found["status"] == "expired"
    assert running.client.get("/v1/feedback?status=expired").json()["data"]
    metrics = running.client.get("/metrics").text
    assert "ratchet_feedback_expired_total 1.0" in metrics
    assert "ratchet_feedback_pending 0.0" in metrics
    assert 'ratchet_feedback_total{name="reward",source="human",status="pending"} 1.0' in metrics


def test_a_record_that_cannot_be_read_takes_nothing_from_a_vote(running: Running) -> None:
    response_id = running.chat(session_id="s1", task_id="t1").json()["id"]
    deliver(running)
    wanted = trajectory_id("default", session="s1", task=None)
    stored = keys.transitions_of("default", wanted)
    for field in running.redis.hkeys(stored):
        running.redis.hset(stored, field, b"nonsense")
    body = {"response_id": response_id, "task_id": "t1", "value": 1}
    answer = post(running, **body)
    assert (answer.status_code, answer.json()["status"]) == (202, "attached")
    assert "training" not in answer.json()


def test_names_of_clients_make_no_series(running: Running) -> None:
    post(running, session_id="s1", value=1, name="anything")
    metrics = running.client.get("/metrics").text
    assert 'ratchet_feedback_total{name="other",source="human",status="pending"} 1.0' in metrics
    assert "anything" not in metrics


def test_a_vote_is_taken_back_while_redis_is_away(start: Callable[..., Running]) -> None:
    running = start(redis=Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2))
    posted = post(running, session_id="s1", value=1).json()
    answer = running.client.delete(f"/v1/feedback/{posted['feedback_id']}")
    assert (answer.status_code, answer.json()["status"]) == (202, "retracted")
    taken = [record.feedback_id for record in running.records(Retraction)]
    assert taken == [posted["feedback_id"], *said_with(posted["feedback_id"])]  # once


def test_settings_say_what_a_value_is_worth(start: Callable[..., Running]) -> None:
    metrics = {
        "minutes": {"low": 0, "high": 10, "optimize": "min"},
        "mood": {"values": {"great": 1, "awful": -0.5}},
    }
    running = start(rewards={"metrics": metrics})
    for name, value, reward in (
        ("minutes", 0, 1), ("minutes", 10, -1), ("minutes", 99, -1), ("minutes", 5, 0),
        ("mood", "great", 1), ("mood", "awful", -0.5), ("mood", "else", None),
    ):  # fmt: skip
        answer = post(running, session_id="s1", name=name, value=value).json()
        assert answer["reward"] == reward, (name, value)
    metrics_text = running.client.get("/metrics").text
    assert 'name="minutes"' in metrics_text


CASES = Path(__file__).parents[1] / "cases" / "feedback"


def test_bodies_of_other_products_are_taken_verbatim(running: Running) -> None:
    paths = sorted(CASES.glob("*.json"))
    assert paths
    for path in paths:
        case = json.loads(path.read_text())
        before = len(running.records(Feedback))
        answer = running.client.post("/v1/feedback", content=json.dumps(case["body"]))
        assert answer.status_code == case["status"], (path.stem, answer.text)
        if "code" in case:
            assert answer.json()["error"]["code"] == case["code"]
            continue
        assert uuid.UUID(answer.json()["feedback_id"])
        assert answer.json()["reward"] == case["reward"], path.stem
        kept = {record.name: record for record in running.records(Feedback)[before:]}
        assert {name: record.value for name, record in kept.items()} == case["values"], path.stem
        assert {name: record.reward for name, record in kept.items()} == case["rewards"], path.stem
        for name, value in case.get("fields", {}).items():
            assert getattr(next(iter(kept.values())), name) == value, path.stem


def records_of(body: FeedbackBody) -> list[Feedback]:
    return to_records(
        body,
        RewardSettings(),
        feedback_id="fb",
        tenant="default",
        key=None,
        path_session=None,
        now=1.0,
    )


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
    (vote, *_) = records_of(parsed)
    assert vote.reward is None or (math.isfinite(vote.reward) and -1 <= vote.reward <= 1)


def test_feedback_needs_no_more_than_a_line() -> None:
    with pytest.raises(ApiError):
        parse_feedback(b"{}")
    (vote,) = records_of(parse_feedback(b'{"session_id":"s1","value":1}'))
    assert vote.reward == 1.0


def test_nobody_speaks_for_a_judge_of_the_gateway(start: Callable[..., Running]) -> None:
    judge = JudgeSettings(model="policy", url="http://127.0.0.1:9/v1")
    client = start(judges={"careful": judge}).client
    said = {"session_id": "s1", "value": 1, "source": {"type": "judge", "id": "careful"}}
    refused = client.post("/v1/feedback", json=said)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "source")
    said["source"] = {"type": "judge", "id": "somebody-else"}
    assert client.post("/v1/feedback", json=said).status_code == 202


def test_what_was_said_with_a_vote_is_taken_back_with_it(running: Running) -> None:
    said = {"rating": 5, "satisfied": True, "used_result": False}
    span = running.chat(session_id="s1").json()["id"]
    deliver(running)
    taken = post(running, span_id=span, reward=0.8, metadata=said).json()["feedback_id"]
    deliver(running)
    assert running.client.delete(f"/v1/feedback/{taken}").status_code == 200
    deliver(running)
    listed = running.client.get("/v1/feedback").json()["data"]
    assert [(item["status"], item["value"]) for item in listed] == [("retracted", None)] * 4


def test_a_cursor_of_no_time_is_refused(running: Running) -> None:
    for after in ("nan:x", "inf:x", "-inf:x", "x", "1"):
        refused = running.client.get("/v1/feedback", params={"after": after})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "after")


def test_what_a_client_calls_tags_or_extra_itself_is_kept(running: Running) -> None:
    metadata = {"tags": "mine", "extra": {"a": 1}}
    post(running, session_id="s1", value=1, metadata=metadata, tags={"t": "u"}, more=2)
    (kept,) = running.records(Feedback)
    assert kept.metadata == {"tags": {"t": "u"}, "own_tags": "mine", "extra": {"a": 1, "more": 2}}


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
def test_a_page_of_another_site_may_not_write_to_an_open_gateway(
    running: Running, start: Callable[..., Running], headers: dict[str, str]
) -> None:
    said = {"session_id": "s1", "value": 1}
    for path in ("/v1/feedback", "/t/s1/v1/feedback", "/v1/feedback/tokens", "/training/trigger"):
        refused = running.client.post(path, json=said, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_site"), path
    own = {"origin": running.url, "sec-fetch-site": "same-origin"}
    assert running.client.post("/v1/feedback", json=said, headers=own).status_code == 202
    keyed = start(gateway={"api_key": "k" * 20})
    headers = {**headers, "authorization": f"Bearer {'k' * 20}"}
    assert keyed.client.post("/v1/feedback", json=said, headers=headers).status_code == 202


def test_votes_on_choices_of_one_response_stand_side_by_side(running: Running) -> None:
    for choice, value in ((0, 1), (1, -1), (1, 1), (None, -1)):
        said = {} if choice is None else {"choice": choice}
        assert post(running, response_id="chatcmpl-9", value=value, **said).status_code == 202
    assert post(running, session_id="s1", step=0, choice=2, value=1).status_code == 202
    votes = running.records(Feedback)
    assert [vote.choice for vote in votes] == [0, 1, 1, None, 2]
    identities = [vote.identity for vote in votes]
    assert identities[1] == identities[2], "the later one replaces the earlier"
    assert len(set(identities)) == 4
