"""Signed tokens for thumb links: what a click may say, and until when. Pure but for its key.

A token is `payload.signature`, both in URL-safe base64: JSON, and 16 bytes of its
HMAC-SHA256. It is signed and not encrypted, and nothing else can be written with it.
"""

import base64
import binascii
import hmac
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trajectories.errors import RatchetError
from trajectories.model import Feedback, FeedbackSource

_SIGNATURE_BYTES = 16
MOST_CHARACTERS = 4_096

Value = bool | float | str


class BadToken(RatchetError):
    """A token that was not signed with the key that holds now."""


class Thumb(BaseModel):
    """What a token lets its holder say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    target: dict[str, str | int | None]  # the target's fields of `Feedback`
    name: str
    values: tuple[Value, ...]
    source_type: Literal["human", "code", "judge"]
    source_id: str
    key: str | None = None  # the API key that asked for the token
    expires_at: Annotated[int, Field(ge=0)]  # unix seconds

    def allowed(self, text: str) -> Value | None:
        """The value that is written so, if it may be said."""
        return next((value for value in self.values if written(value) == text), None)

    def vote(self, value: Value, reward: float | None, *, feedback_id: str, at: float) -> Feedback:
        """The vote of a click."""
        fields = {
            "id": feedback_id,
            "identity": "",  # its target, name and source say which vote it is
            "tenant": self.tenant,
            "name": self.name,
            "form": "value",
            "value": value,
            "reward": reward,
            "source": FeedbackSource(type=self.source_type, id=self.source_id),
            "key": self.key,
            "received_at": at,
            **self.target,
        }
        return Feedback.model_validate(fields)


def written(value: Value) -> str:
    """A value as it stands in a link."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def sign(thumb: Thumb, key: bytes) -> str:
    """The token."""
    payload = _encode(orjson.dumps(thumb.model_dump(mode="json", exclude_none=True)))
    return f"{payload}.{_encode(_signature(payload, key))}"


def read_token(token: str, key: bytes) -> Thumb:
    """What a token says; raises BadToken. Whether it has expired is not looked at."""
    payload, _, signature = token.partition(".")
    if len(token) > MOST_CHARACTERS or not token.isascii():
        raise BadToken("no token")
    if not hmac.compare_digest(_encode(_signature(payload, key)), signature):
        raise BadToken("not signed with this key")
    try:
        return Thumb.model_validate_json(base64.urlsafe_b64decode(payload + "=="))
    except (ValidationError, binascii.Error, ValueError) as error:
        raise BadToken("signed, and no token") from error


def _signature(payload: str, key: bytes) -> bytes:
    return hmac.digest(key, b"thumb." + payload.encode(), "sha256")[:_SIGNATURE_BYTES]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
