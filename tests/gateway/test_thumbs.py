"""Thumb links: what a token may say and nothing else, and GET that never writes."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import thumb_pages
from gateway.thumb_token import BadToken, Thumb, read_token, sign
from gateway.thumbs import Thumbs
from tests.gateway.conftest import Running
from tests.gateway.test_feedback import deliver
from trajectories.connection import Redis
from trajectories.model import Feedback
from trajectories.settings import JudgeSettings
from trajectories.standing import standing_votes

KEY = b"k" * 32
JSON = {"accept": "application/json"}


def thumb(**fields: Any) -> Thumb:
    wanted: dict[str, Any] = {
        "tenant": "default",
        "target": {"response_id": "chatcmpl-1"},
        "name": "reward",
        "values": (1.0, -1.0),
        "source_type": "human",
        "source_id": "default",
        "expires_at": int(time.time()) + 60,
    }
    return Thumb(**wanted | fields)


def token_of(running: Running, **body: Any) -> dict[str, Any]:
    answer = running.client.post("/v1/feedback/tokens", json={"session_id": "s1", **body})
    assert answer.status_code == 201, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_a_token_says_what_was_signed() -> None:
    assert read_token(sign(thumb(), KEY), KEY) == thumb()


@given(st.integers(0, 400), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_token_that_was_changed_is_none(place: int, letter: str) -> None:
    token = sign(thumb(expires_at=1), KEY)
    changed = token[: place % len(token)] + letter + token[place % len(token) + 1 :]
    if changed != token:
        with pytest.raises(BadToken):
            read_token(changed, KEY)


@given(st.text(max_size=200))
def test_no_text_is_a_token(text: str) -> None:
    with pytest.raises(BadToken):
        read_token(text, KEY)


def test_another_key_voids_a_token() -> None:
    with pytest.raises(BadToken):
        read_token(sign(thumb(), KEY), b"other")


def test_a_click_is_a_vote_and_a_later_one_replaces_it(running: Running) -> None:
    response_id = running.chat(session_id="s1").json()["id"]
    found = token_of(running, session_id=None, response_id=response_id)
    assert found["up_url"].startswith(f"{running.url}/f/")
    assert found["expires_at"] == pytest.approx(time.time() + 604_800, abs=60)
    for url in (found["up_url"], found["down_url"]):
        page = running.client.get(url)
        assert page.status_code == 200
        assert page.text.count("<button>") == 1
        assert running.records(Feedback) == [], "GET writes nothing"
    for value in ("1", "-1"):
        answer = running.client.post(f"/f/{found['token']}", data={"v": value})
        assert (answer.status_code, "Thank you" in answer.text) == (200, True)
    deliver(running)
    trajectory = running.services.store.resolve(running.records(Feedback)[0])
    assert trajectory is not None
    scorable = running.services.store.scorable(trajectory)
    assert scorable is not None
    standing = standing_votes(scorable.trajectory.transitions, scorable.feedback)
    assert [vote.reward for vote in standing] == [-1.0]
    listed = running.client.get("/v1/feedback").json()["data"]
    assert [item["status"] for item in listed] == ["attached", "attached"]


def test_a_token_says_nothing_that_was_not_allowed(running: Running) -> None:
    token = token_of(running, values=[1, 0])["token"]
    for value in ("-1", "2", "1e0", "", "true"):
        assert running.client.post(f"/f/{token}", data={"v": value}).status_code == 404
        assert running.client.get(f"/f/{token}", params={"v": value}).status_code == 404
    both = running.client.get(f"/f/{token}")
    assert both.text.count("<button>") == 2
    assert running.records(Feedback) == []


def test_a_broken_and_an_expired_link_say_so_without_detail(running: Running) -> None:
    token_of(running)  # makes the key
    signing = running.redis.get("signing")
    assert isinstance(signing, bytes)
    old = sign(thumb(expires_at=int(time.time()) - 1), signing)
    for method in ("get", "post"):
        ask = getattr(running.client, method)
        assert ask(f"/f/{old}?v=1").status_code == 410
        assert ask("/f/nonsense?v=1").status_code == 404
    assert "chatcmpl-1" not in running.client.get(f"/f/{old}").text


def test_every_page_is_closed_to_others(running: Running) -> None:
    token = token_of(running)["token"]
    for path in (f"/f/{token}?v=1", "/f/nonsense"):
        headers = running.client.get(path).headers
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-robots-tag"].startswith("noindex")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
        assert "<script" not in running.client.get(path).text


def test_only_a_click_may_come_from_other_pages(running: Running) -> None:
    token = token_of(running)["token"]
    click = running.client.post(
        f"/f/{token}", data={"v": "1"}, headers={**JSON, "origin": "https://elsewhere"}
    )
    assert (click.status_code, click.json()) == (200, {"recorded": True})
    assert click.headers["access-control-allow-origin"] == "*"
    allowed = running.client.request("OPTIONS", f"/f/{token}")
    assert (allowed.status_code, allowed.headers["access-control-allow-methods"]) == (204, "POST")
    other = running.client.post("/v1/feedback", json={"session_id": "s", "value": 1})
    assert "access-control-allow-origin" not in other.headers
    broken = running.client.post("/f/nonsense", headers=JSON)
    assert (broken.status_code, broken.json()) == (404, {"recorded": False})


def test_many_clicks_are_too_many(running: Running) -> None:
    token, other = (token_of(running, session_id=name)["token"] for name in ("s1", "s2"))
    for _ in range(10):
        assert running.client.post(f"/f/{token}", data={"v": "1"}).status_code == 200
    refused = running.client.post(f"/f/{token}", data={"v": "1"})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert running.client.post(f"/f/{other}", data={"v": "1"}).status_code == 200


def test_a_new_signing_key_voids_every_link(start: Callable[..., Running]) -> None:
    running = start(gateway={"signing_key": "a-key-of-the-settings"})
    token = token_of(running)["token"]
    assert running.redis.get("signing") is None
    assert read_token(token, b"a-key-of-the-settings").name == "reward"
    assert running.client.get(f"/f/{token}").status_code == 200
    assert running.client.get(f"/f/{sign(thumb(), KEY)}").status_code == 404


def test_without_redis_and_a_key_nothing_is_signed(start: Callable[..., Running]) -> None:
    running = start(redis=Redis.from_url("redis://127.0.0.1:9/0", socket_connect_timeout=0.2))
    answer = running.client.post("/v1/feedback/tokens", json={"session_id": "s1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_stored")
    assert running.client.get("/f/x.y").status_code == 503


def test_links_are_made_for_one_target_and_sound_values(running: Running) -> None:
    for body, code in (
        ({}, "no_target"),
        ({"session_id": "a", "task_id": "b"}, "many_targets"),
        ({"session_id": "a", "values": []}, "bad_value"),
        ({"session_id": "a", "values": [[1]]}, "bad_value"),
        ({"session_id": "a", "expires_in": 5}, "bad_value"),
        ({"session_id": "a", "name": "no spaces"}, "bad_value"),
    ):
        answer = running.client.post("/v1/feedback/tokens", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), body


def test_what_stands_in_a_link_is_escaped() -> None:
    page = thumb_pages.ask('"><script>', [('"><b>', "<i>")])
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_the_script_is_small_and_keeps_no_secrets(running: Running) -> None:
    answer = running.client.get("/f/thumbs.js")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert len(answer.content) <= 2048
    assert 'credentials: "omit"' in answer.text


def test_no_link_speaks_for_a_judge_of_the_gateway(start: Callable[..., Running]) -> None:
    judge = JudgeSettings(model="policy", url="http://127.0.0.1:9/v1")
    client = start(judges={"careful": judge}).client
    said = {"session_id": "s1", "source": {"type": "judge", "id": "careful"}}
    refused = client.post("/v1/feedback/tokens", json=said)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "source")


def clicked_on(running: Running, count: int) -> list[str]:
    """The answers of one session, each with a click on it."""
    answers = [
        running.chat(session_id="s1", messages=[{"role": "user", "content": str(n)}]).json()["id"]
        for n in range(count)
    ]
    for answer in answers:
        token = token_of(running, session_id=None, response_id=answer)["token"]
        assert running.client.post(f"/f/{token}", data={"v": "1"}).status_code == 200
    deliver(running)
    return answers


def test_clicks_on_other_answers_are_no_history(running: Running) -> None:
    one, _ = clicked_on(running, 2)
    other = {"response_id": one, "value": 0.5}
    assert running.client.post("/v1/feedback", json=other).status_code == 202
    deliver(running)
    histories = {}
    for item in running.client.get("/v1/feedback").json()["data"]:
        found = running.client.get(f"/v1/feedback/{item['feedback_id']}").json()
        histories[found["response_id"] == one, found["value"]] = [
            entry["value"] for entry in found["history"]
        ]
    assert histories == {(True, 1.0): [0.5], (True, 0.5): [1.0], (False, 1.0): []}


def test_many_votes_leave_the_clicks_on_every_answer(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajectories.store.votes.MANY_VOTES", 4)
    answers = clicked_on(running, 3)
    for _ in range(3):
        body = {"response_id": answers[0], "value": 0.5, "name": "tone"}
        assert running.client.post("/v1/feedback", json=body).status_code == 202
    deliver(running)
    trajectory = running.services.store.resolve(running.records(Feedback)[0])
    assert trajectory is not None
    votes = running.services.store.votes_on(trajectory)
    assert {vote.response_id for vote in votes if vote.name == "reward"} == set(answers)


def test_links_of_words_lead_where_they_say(running: Running) -> None:
    links = token_of(running, values=["very good", "R&D"])
    for url, said in ((links["up_url"], "very good"), (links["down_url"], "R&D")):
        assert running.client.get(url).status_code == 200
        assert running.client.post(url).status_code == 200, said


def test_a_link_that_would_be_too_long_is_refused(running: Running) -> None:
    body = {"session_id": "s1", "values": ["x" * 257]}
    assert running.client.post("/v1/feedback/tokens", json=body).status_code == 422
    body["values"] = [f"{number}" + "é" * 255 for number in range(10)]
    refused = running.client.post("/v1/feedback/tokens", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "values")


def test_a_click_page_leads_on_from_where_it_lies(running: Running) -> None:
    token = token_of(running)["token"]
    assert f'action="{token}"' in running.client.get(f"/f/{token}?v=1").text


def test_many_addresses_are_no_way_round_the_limit_of_a_token(running: Running) -> None:
    thumbs = Thumbs(running.services)
    waits = [thumbs.wait_seconds("t", f"2001:db8::{n:x}") for n in range(1, 12)]
    assert waits[:10] == [0.0] * 10
    assert waits[10] > 0
    passed = sum(not thumbs.wait_seconds("u", f"10.0.{n // 250}.{n % 250}") for n in range(700))
    assert 600 <= passed < 700
