"""Embeddings: the name of the model changes, and nothing else."""

import orjson
import pytest

from gateway.dialects.embeddings import client_answer, parse_embeddings, upstream_body
from gateway.errors import ApiError


def test_only_the_name_of_the_model_changes() -> None:
    body = parse_embeddings(b'{"input":["a"],"model":"small","encoding_format":"base64"}')
    assert upstream_body(body, "base") == {**body, "model": "base"}
    raw = b'{"data":[{"embedding":[0.10, 1e-7]}], "model" : "base","usage":{}}'
    assert client_answer(raw, "base", "small") == raw.replace(
        b'"model" : "base"', b'"model":"small"'
    )
    assert client_answer(raw, "base", None) is raw
    assert client_answer(raw, "other", "small") == raw


def test_a_name_inside_a_text_is_left_alone() -> None:
    answer = {"note": '"model":"base"', "model": "base"}
    renamed = client_answer(orjson.dumps(answer), "base", r"a\1")
    assert orjson.loads(renamed) == {**answer, "model": r"a\1"}


def test_a_deployment_is_the_model_where_the_body_names_none() -> None:
    assert parse_embeddings(b'{"input":"a"}', "d1")["model"] == "d1"
    with pytest.raises(ApiError, match="`model` must be"):
        parse_embeddings(b'{"input":"a"}')
