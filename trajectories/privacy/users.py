"""Whose call it was, as its client said: `user`, `safety_identifier`, `metadata.user_id`. Pure."""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

FIELDS = ("user", "safety_identifier")


def users_of(request: dict[str, Any]) -> Iterator[str]:
    """The ids of users that a request names."""
    for name in FIELDS:
        if isinstance(value := request.get(name), str):
            yield value
    metadata = request.get("metadata")
    if isinstance(metadata, dict) and isinstance(value := metadata.get("user_id"), str):
        yield value


def rename_users(request: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """The request with other ids of users: the very same object if none changes."""
    changed: dict[str, Any] = {
        name: new
        for name in FIELDS
        if isinstance(value := request.get(name), str) and (new := rename(value)) != value
    }
    metadata = request.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if isinstance(metadata, dict) and isinstance(user, str) and rename(user) != user:
        changed["metadata"] = {**metadata, "user_id": rename(user)}
    return {**request, **changed} if changed else request


def pseudonym(user: str, key: bytes) -> str:
    """What stands for a user's id in the archive where the id itself may not."""
    digest = blake2b(user.encode("utf-8", "surrogatepass"), key=key[:64], digest_size=12)
    return f"<USER_{digest.hexdigest()}>"
