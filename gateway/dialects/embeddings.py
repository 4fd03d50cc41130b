"""Embeddings: only the model's name is changed, on the way there and back.

Pure. The answer, which may be large, is not parsed: in JSON a quote inside a
string is escaped, so the first bytes that read as this member are the member.
"""

import re
from typing import Any

import orjson

from gateway.dialects.chat import parse_object
from gateway.errors import bad_request


def parse_embeddings(raw: bytes, deployment: str | None = None) -> dict[str, Any]:
    """The body as an object. Raises ApiError. `deployment` is the model where the path names it."""
    body = parse_object(raw)
    if deployment is not None and body.get("model") is None:
        body["model"] = deployment
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise bad_request("`model` must be a non-empty string", "model")
    return body


def upstream_body(body: dict[str, Any], model: str) -> dict[str, Any]:
    """The body under the upstream's name of the model."""
    return {**body, "model": model}


def client_answer(raw: bytes, model: str, alias: str | None) -> bytes:
    """The answer under the client's name of the model."""
    if alias is None or alias == model:
        return raw
    member = re.compile(rb'"model"\s*:\s*' + re.escape(orjson.dumps(model)))
    return member.sub(lambda _: b'"model":' + orjson.dumps(alias), raw, count=1)
