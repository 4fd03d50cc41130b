"""Whatever bytes are posted as feedback: an answer, never a 500, and only finite rewards kept."""

import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.gateway.conftest import Running
from trajectories.model import Feedback

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
FIELDS = [
    "response_id", "request_id", "span_id", "tool_call_id", "output_text", "session_id",
    "step", "task_id", "trajectory_id", "inference_id", "episode_id", "name", "key",
    "metric_name", "value", "score", "reward", "thumb", "rating", "comment", "feedback_text",
    "correction", "demonstration", "source", "tags", "metadata", "id", "final", "dry_run",
    "dryrun", "bonuses", "also", "is_plain_200", "values", "expires_in", "x",
]  # fmt: skip
fields = st.sampled_from(FIELDS)
bodies = st.dictionaries(fields, anything, max_size=6)
raw = st.one_of(
    st.binary(max_size=200),
    bodies.map(lambda body: json.dumps(body).encode()),
    bodies.map(lambda body: json.dumps({"session_id": "s", "value": 1} | body).encode()),
    bodies.map(lambda body: json.dumps({"span_id": "s", "metadata": body}).encode()),
)
quiet = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(answer: Any) -> None:
    assert answer.status_code in (200, 201, 202, 400, 413, 422), (answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert answer.json()["error"]["code"]
        assert answer.headers["x-should-retry"] == "false"


@quiet
@given(raw)
@example(b'{"session_id":"s","value":1e400}')
@example(b'{"session_id":"s","value":NaN}')
@example(b'{"session_id":"s","value":"\\ud800"}')
@example(b"[" * 100_000)
@example(b'{"session_id":"s","value":1,"id":"' + b"a:b/../%00" + b'"}')
@example(b'{"session_id":"s","value":' + b"9" * 5000 + b"}")
@example(b'{"metric_name":["comment"],"value":1}')
@example(b'{"task_id":"t","reward":1,"metadata":{"rating":1e308,"satisfied":"yes"}}')
def test_no_body_breaks_a_vote(running: Running, body: bytes) -> None:
    check(running.client.post("/v1/feedback", content=body))


@quiet
@given(raw)
def test_no_body_breaks_a_link(running: Running, body: bytes) -> None:
    check(running.client.post("/v1/feedback/tokens", content=body))


@quiet
@given(st.lists(raw, max_size=4))
def test_no_line_breaks_a_batch(running: Running, lines: list[bytes]) -> None:
    answer = running.client.post(
        "/v1/feedback/batch",
        content=b"\n".join(lines),
        headers={"content-type": "application/x-ndjson"},
    )
    check(answer)
    for vote in running.records(Feedback)[-4:]:
        assert vote.reward is None or -1 <= vote.reward <= 1


@quiet
@given(st.text(max_size=60), st.dictionaries(st.text(max_size=6), st.text(max_size=9), max_size=3))
def test_no_question_breaks_a_list(running: Running, path: str, query: dict[str, str]) -> None:
    names = {"after": path, "limit": path, "status": path, **query}
    assert running.client.get("/v1/feedback", params=names).status_code in (200, 422)
    answer = running.client.get("/f/token", params={"v": path})
    assert answer.status_code == 404
