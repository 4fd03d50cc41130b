"""Embeddings: the name of the model changes, and nothing else."""

import orjson
import pytest

from gateway.dialects.embeddings import parse_embeddings
from gateway.dialects.fold import Folded
from gateway.dialects.native import EmbeddingsReply
from gateway.errors import ApiError


def renamed(raw: bytes, model: str, alias: str | None) -> bytes:
    reply = EmbeddingsReply(lambda _: Folded(), lambda error: error.body, model=model, alias=alias)
    return reply.whole(raw)[0]


def test_only_the_name_of_the_model_changes() -> None:
    raw = b'{"data":[{"embedding":[0.10, 1e-7]}], "model" : "base","usage":{}}'
    assert renamed(raw, "base", "small") == raw.replace(b'"model" : "base"', b'"model":"small"')
    assert renamed(raw, "base", None) is raw
    assert renamed(raw, "other", "small") == raw


def test_a_name_inside_a_text_is_left_alone() -> None:
    answer = {"note": '"model":"base"', "model": "base"}
    found = renamed(orjson.dumps(answer), "base", r"a\1")
    assert orjson.loads(found) == {**answer, "model": r"a\1"}


def test_the_tokens_of_a_prompt_are_counted() -> None:
    reply = EmbeddingsReply(lambda _: Folded(), lambda error: error.body, model="m", alias=None)
    answer = b'{"data":[],"usage":{"prompt_tokens": 7,"total_tokens":7}}'
    assert reply.whole(answer)[1].usage == {"prompt_tokens": 7, "completion_tokens": 0}


def test_a_deployment_is_the_model_where_the_body_names_none() -> None:
    assert parse_embeddings(b'{"input":"a"}', "d1")["model"] == "d1"
    with pytest.raises(ApiError, match="`model` must be"):
        parse_embeddings(b'{"input":"a"}')
