"""Embeddings: what is read from a body. The answer is `native.EmbeddingsReply`'s. Pure."""

from typing import Any

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
