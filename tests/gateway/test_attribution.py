"""Whose call is it: the order of the levels, and what is done with odd ids."""

import pytest

from gateway.attribution import Attribution, PathIds, attribute, clean_id
from gateway.errors import ApiError
from gateway.wire.paths import split_path

H = list[tuple[bytes, bytes]]
UUID = "0b0e1a52-6a3c-4d5e-8f90-123456789abc"


def found(
    path: PathIds | None = None, query: bytes = b"", headers: H | None = None, **body: object
) -> Attribution:
    return attribute(path or PathIds(), query, dict(headers or []), body)


def test_the_levels_win_in_order() -> None:
    headers: H = [
        (b"x-session-id", b"h"),
        (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
    ]
    body = {"metadata": {"session_id": "m"}, "session_id": "b"}
    everything = found(PathIds(session="u"), b"session=q", headers, **body)
    assert (everything.session, everything.session_source) == ("u", "url")
    assert found(None, b"session=q", headers, **body).session == "q"
    assert found(None, b"", headers, **body).session_source == "header"
    assert found(**body).session == "m"
    assert found(session_id="b").session_source == "body"
    assert found(headers=headers[1:]).session == "a" * 32
    assert found() == Attribution()


@pytest.mark.parametrize(
    ("headers", "body", "session"),
    [
        ([(b"x-claude-code-session-id", b"c1")], {}, "c1"),
        ([(b"thread-id", b"t"), (b"session-id", b"s")], {}, "t"),
        ([(b"helicone-session-id", b"x")], {}, "x"),
        ([(b"baggage", b"a=1, session.id=s%31;p=1")], {}, "s1"),
        ([], {"metadata": {"thread_id": "th"}}, "th"),
        ([], {"conversation": {"id": "conv"}}, "conv"),
        ([], {"prompt_cache_key": "constant"}, None),
        ([], {"prompt_cache_key": UUID}, UUID),
        ([], {"metadata": {"user_id": '{"session_id":"cc"}'}}, "cc"),
        ([], {"user": "u1", "safety_identifier": "u1"}, None),
        ([], {"session_id": 17}, "17"),
        ([], {"session_id": True, "metadata": [1]}, None),
        ([], {"session_id": "  "}, None),
    ],
)  # fmt: skip
def test_known_clients_are_recognised(headers: H, body: dict[str, object], session: str) -> None:
    assert found(headers=headers, **body).session == session


def test_task_and_agent_are_resolved_on_their_own() -> None:
    both = found(PathIds(agent="a"), headers=[(b"x-task-id", b"t")], session_id="s", task_id="x")
    assert (both.session, both.task, both.agent) == ("s", "t", "a")
    assert found(task_id="t").session_source == "body"
    turn = (b"x-codex-turn-metadata", b'{"agent_name":"coder"}')
    assert found(headers=[turn]).agent == "coder"


def test_odd_ids_are_hashed_and_never_refused() -> None:
    assert clean_id("ok.id~1:2_3-4") == "ok.id~1:2_3-4"
    hashed = clean_id("with space")
    assert hashed == clean_id("with space") != clean_id("with  space")
    assert len(clean_id("x" * 129) or "") < 64


def test_prefixes_come_off_the_path() -> None:
    assert split_path("/a/sup/t/s1/v1/chat/completions") == (
        PathIds("s1", "sup"), "/v1/chat/completions",
    )  # fmt: skip
    assert split_path("/t/s1/feedback")[1] == "/v1/feedback"
    assert split_path("/v1/v1/models")[1] == "/v1/models"
    assert split_path("/t/s1")[1] == "/"
    assert split_path("/training/status") == (PathIds(), "/training/status")
    for path in ("/t//v1", "/t/a%2Fb/v1", "/a/%00/v1", f"/t/{'x' * 129}/v1"):
        with pytest.raises(ApiError):
            split_path(path)
