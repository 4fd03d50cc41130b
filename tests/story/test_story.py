"""What Ratchet promises, one test a sentence. Read this first.

Real processes and a real Redis; only the engine is a fake, so that it can be
made to fail. What needs a real vLLM is in tests/real/.
"""

import os
import signal
import time

import httpx2
import openai
import pytest

from tests.story.conftest import House, eventually
from trajectories.model import Outcome
from trajectories.resources import PolicyVersion, VersionState

SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        },
    },
}


@pytest.fixture(autouse=True)
def _engine_at_rest(house: House) -> None:
    house.engine.fault = None
    house.engine.reply = lambda _model, _messages: "Hello there, how are you?"


def test_a_request_becomes_a_transition(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.url}/a/greeter/t/story-1/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": "hi"}], temperature=0.7
        )
    trajectory = house.recorded("story-1")
    (transition,) = trajectory.transitions
    assert (trajectory.agent, trajectory.session_id) == ("greeter", "story-1")
    assert transition.response_id == answer.id
    assert transition.policy_version == 0
    assert transition.sampling.temperature == 0.7
    assert transition.choices[0].message["content"] == answer.choices[0].message.content
    assert transition.choices[0].is_aligned, "token ids and logprobs as the engine made them"
    assert transition.prompt_token_ids
    assert transition.outcome is Outcome.COMPLETE


def test_the_first_byte_of_a_stream_arrives_before_the_engine_sends_its_second_chunk(
    house: House,
) -> None:
    sent_before = house.engine.chunks_sent
    house.engine.hold()
    try:
        with house.client.stream(
            "POST",
            "/t/story-first/v1/chat/completions",
            json={
                "model": "policy",
                "messages": [{"role": "user", "content": "hi"}],
                "stream": True,
            },
        ) as stream:
            chunks = stream.iter_bytes()
            first = next(chunks)
            assert first.startswith(b"data: ")
            assert house.engine.chunks_sent <= sent_before + 1, "the others are still held back"
            house.engine.let_go()
            assert b"".join(chunks).rstrip().endswith(b"data: [DONE]")
    finally:
        house.engine.let_go()


def test_the_client_sees_nothing_of_what_was_added_for_learning(house: House) -> None:
    answer = house.chat("story-clean").json()
    assert not answer.get("prompt_token_ids")
    assert not answer["choices"][0].get("token_ids")
    assert not answer["choices"][0]["logprobs"]
    assert house.engine.requests[-1].body["return_token_ids"] is True


def test_a_thumb_becomes_the_reward_of_its_session(house: House) -> None:
    house.chat("story-thumb")
    reply = house.client.post("/v1/feedback", json={"session_id": "story-thumb", "thumb": "down"})
    assert reply.status_code == 202
    trajectory = house.rewarded("story-thumb")
    assert trajectory.reward == -1.0
    assert [reward.source for reward in trajectory.rewards] == ["feedback:human"]


def test_feedback_may_come_before_what_it_is_about(house: House) -> None:
    early = house.client.post("/v1/feedback", json={"session_id": "story-early", "value": 0.5})
    assert (early.status_code, early.json()["status"]) == (202, "pending")
    house.chat("story-early")
    assert house.rewarded("story-early").reward == 0.5


def test_the_same_vote_twice_counts_once_and_a_changed_mind_replaces_it(house: House) -> None:
    house.chat("story-mind")
    for thumb in ("up", "up", "down"):
        house.client.post("/v1/feedback", json={"session_id": "story-mind", "thumb": thumb})
    trajectory = house.eventually(
        "story-mind", lambda found: found if found.reward == -1.0 else None
    )
    assert len(trajectory.rewards) == 1


def test_silence_is_missing_and_never_zero(house: House) -> None:
    house.chat("story-silence")
    closed = house.eventually("story-silence", lambda found: found if found.is_closed else None)
    eventually(lambda: not house.redis.zscore("scoring", f"default/{closed.id}"))
    found = house.trajectory("story-silence")
    assert found is not None
    assert found.reward is None
    assert not house.redis.zscore("trainable:policy", f"default/{closed.id}")


def test_a_broken_tool_call_needs_nobody_to_report_it(house: House) -> None:
    house.engine.reply = lambda _model, _messages: [{"name": "serach", "arguments": "{}"}]
    house.chat("story-air", tools=[SEARCH])
    trajectory = house.rewarded("story-air")
    assert trajectory.reward == -0.3
    (reward,) = trajectory.rewards
    assert reward.source.startswith("air:")
    assert "serach" in reward.reason


def test_new_trajectories_go_to_the_new_version_and_running_ones_end_on_theirs(
    house: House,
) -> None:
    assert house.chat("story-old").headers["x-ratchet-policy"] == "policy@0"
    promote(house, 1)
    eventually(lambda: house.chat(f"fresh-{time.time_ns()}").headers["x-ratchet-policy"][-1] == "1")
    assert house.chat("story-old").headers["x-ratchet-policy"] == "policy@0"
    house.registry.promote(0, reason="rolled back")
    eventually(lambda: house.chat(f"fresh-{time.time_ns()}").headers["x-ratchet-policy"][-1] == "0")


def promote(house: House, version: int) -> None:
    name = f"policy-v{version}-00000000"
    house.engine.adapters[name] = "/nowhere"
    house.registry.add(
        PolicyVersion(
            policy="policy", version=version, model=name, state=VersionState.CANDIDATE, path="/x"
        )
    )
    house.registry.promote(version)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b"{"),
        ("/v1/chat/completions", b'{"model": "policy", "messages": "\xff"}'),
        ("/v1/chat/completions", b'{"model": "policy", "messages": [], "temperature": NaN}'),
        (
            "/v1/chat/completions",
            b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}',
        ),
        ("/v1/feedback", b'{"session_id": "s", "value": NaN}'),
        ("/v1/feedback", b'{"value": 1}'),
        ("/v1/feedback?strict=1", b'{"response_id": "chatcmpl-nobody", "value": 1}'),
    ],
    ids=["json", "utf-8", "nan", "model", "feedback nan", "no target", "unknown id"],
)
def test_bad_input_gets_an_error_that_says_what_to_do(house: House, path: str, body: bytes) -> None:
    reply = house.client.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= reply.status_code < 500
    assert set(reply.json()["error"]) >= {"message", "type", "param", "code"}
    assert len(reply.json()["error"]["message"]) > 10


def test_a_gateway_killed_under_load_loses_nothing_it_answered(house: House) -> None:
    answered = [house.chat(f"story-kill-{n}").json()["id"] for n in range(20)]
    child = house.loop.supervisor["gateway"]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: (house.loop.supervisor.supervise(), is_serving(house))[1])
    for number, response_id in enumerate(answered):
        (transition,) = house.recorded(f"story-kill-{number}").transitions
        assert transition.response_id == response_id


def test_serving_survives_a_dead_redis_and_nothing_is_lost(house: House) -> None:
    server = house.loop.redis
    assert server is not None
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    answered = [house.chat(f"story-dead-{n}") for n in range(10)]
    voted = house.client.post("/v1/feedback", json={"session_id": "story-dead-0", "value": 1})
    assert {reply.status_code for reply in answered} == {200}
    assert voted.status_code == 202
    server.start()
    for number in range(10):
        house.recorded(f"story-dead-{number}")
    assert house.rewarded("story-dead-0").reward == 1.0


def test_a_worker_killed_in_between_leaves_each_reward_exactly_once(house: House) -> None:
    sessions = [f"story-worker-{n}" for n in range(10)]
    for session in sessions:
        house.chat(session)
        house.client.post("/v1/feedback", json={"session_id": session, "value": 1})
    child = house.loop.supervisor["worker"]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 75
    for session in sessions:
        while True:
            house.loop.supervisor.supervise()
            found = house.trajectory(session)
            if found is not None and found.reward is not None:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(found.rewards) == 1


def is_serving(house: House) -> bool:
    try:
        return bool(house.client.get("/healthz").status_code == 200)
    except httpx2.HTTPError:
        return False
