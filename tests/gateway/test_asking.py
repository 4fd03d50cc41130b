"""What an upstream is asked: the same whether the client's bytes were spliced or written anew."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import ANYONE
from gateway.attribution import PathIds
from gateway.dialects.asking import ask
from gateway.dialects.chat import upstream_body
from gateway.reception import receive
from gateway.routing import Route
from gateway.upstreams.table import Target
from gateway.wire.headers import read_headers
from gateway.wire.hot import HotPath
from trajectories.settings import Kind

CHAT = HotPath("chat", PathIds(), b"")
NO_HEADERS = read_headers([])


def asked(raw: bytes, kind: Kind, model: str = "base") -> bytes:
    """The payload for an upstream of that kind that calls the model so."""
    call = receive(CHAT, NO_HEADERS, ANYONE, raw)
    target = Target("u", kind, model, is_policy=kind == "vllm", is_native=True)
    return ask(call, target, Route(model, alias=call.model)).payload


def written_anew(raw: bytes, kind: Kind, model: str = "base") -> dict[str, Any]:
    """What the payload has to say."""
    body = orjson.loads(raw)
    if kind == "vllm":
        return upstream_body(body, model)[0]
    ours = ("session_id", "task_id", "agent_id")
    return {**{name: value for name, value in body.items() if name not in ours}, "model": model}


TEXTS = st.sampled_from(
    ['"model": "policy"', '"model":', "model", "a\\u", "\n", "}", "é", "policy"]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(0, 9), TEXTS, st.fixed_dictionaries({"model": TEXTS})
)
BODIES = st.fixed_dictionaries(
    {
        "messages": st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3),
        "model": st.sampled_from(["policy", "p\u00e9", 'a"b', "base"]),
    },
    optional=dict.fromkeys(
        ("metadata", "logprobs", "return_token_ids", "n", "session_id", "top_logprobs"), VALUES
    ),
)


@given(BODIES, st.booleans(), st.booleans(), st.booleans())
def test_splicing_says_what_writing_anew_says(
    body: dict[str, Any], is_ascii: bool, is_compact: bool, is_reversed: bool
) -> None:
    if is_reversed:
        body = dict(reversed(body.items()))
    separators = (",", ":") if is_compact else None
    raw = json.dumps(body, ensure_ascii=is_ascii, separators=separators).encode()
    for kind in ("vllm", "openai"):
        assert orjson.loads(asked(raw, kind)) == written_anew(raw, kind)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model" :"policy","messages":[],"x":{"model":"policy"}}',
        b'{"mod\\u0065l":"policy","messages":[],"x":{"model":"policy"}}',
        b'{"model":"a","messages":[],"model":"policy"}',
        b'{"model":\n"policy","messages":[]}',
        b'{"model":"\\u0070olicy","messages":[]}',
        b'{"model":"policy","messages":[]} ',
        b'{"messages":[],"x":"model","model":"policy"}',
    ],
)
def test_odd_spellings_are_written_anew(raw: bytes) -> None:
    for kind in ("vllm", "openai"):
        assert orjson.loads(asked(raw, kind)) == written_anew(raw, kind)


def test_the_rest_of_the_clients_bytes_is_passed_as_it_came() -> None:
    raw = b'{"messages": [ ],  "temperature":1.0e0, "model": "policy"}'
    assert asked(raw, "openai") == raw.replace(b"policy", b"base")
    assert asked(raw, "vllm") == raw.replace(b"policy", b"base")[:-1] + (
        b',"return_token_ids":true,"logprobs":true}'
    )


@pytest.mark.parametrize("raw", [b'{"messages":[],"x":{"model":"d"}}', b'{"messages":[]}'])
def test_a_model_that_stands_in_the_path_is_added(raw: bytes) -> None:
    path = HotPath("chat", PathIds(deployment="d"), b"")
    call = receive(path, NO_HEADERS, ANYONE, raw)
    target = Target("u", "openai", "base", is_policy=False, is_native=True)
    payload = ask(call, target, Route("base", alias="d")).payload
    assert orjson.loads(payload) == {**orjson.loads(raw), "model": "base"}
