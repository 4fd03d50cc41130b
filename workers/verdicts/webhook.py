"""A reward by a server of the operator's: the trajectory is posted, signed, and rewards come back.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com):
HMAC-SHA256 over `id.timestamp.body`. The id is the same for every try of one
verdict, so that a receiver can tell a repetition. The address stands in the
settings and nowhere in what is recorded, and redirects are not followed: no
client can make this call another.
"""

import base64
import hashlib
import hmac
import json
import time
from binascii import Error as Base64Error
from typing import Any

import orjson

from trajectories.errors import SettingsError
from trajectories.model import Trajectory
from trajectories.settings import WebhookSettings
from workers.verdicts.opinions import NoVerdict, Opinion, opinions_from
from workers.verdicts.outgoing import post


class Webhook:
    """One `[webhooks.NAME]`."""

    def __init__(self, name: str, settings: WebhookSettings) -> None:
        if not settings.secret:
            raise SettingsError(
                f"webhooks.{name}: the variable {settings.secret_env} with its secret is not set"
            )
        self.name = name
        self._settings = settings
        self._secret = secret_bytes(settings.secret)

    def rewards(self, trajectory: Trajectory, message_id: str) -> list[Opinion]:
        """What the server says. Raises NoVerdict."""
        body = payload(trajectory)
        timestamp = str(int(time.time()))
        headers = {
            "content-type": "application/json",
            "user-agent": "ratchet-webhook/1",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(self._secret, message_id, timestamp, body),
        }
        reply = post(self._settings.url, body, headers, self._settings.timeout_seconds)
        if reply.status == 204:
            return []
        if reply.status != 200:
            raise NoVerdict("status", f"the webhook answered {reply.status}")
        try:
            said = json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            raise NoVerdict("garbage", "the webhook answered something else than JSON") from error
        if not isinstance(said, dict) or not isinstance(said.get("rewards"), list):
            raise NoVerdict("garbage", 'the webhook answered no {"rewards": [...]}')
        return opinions_from(said["rewards"], trajectory, self.name)


def payload(trajectory: Trajectory) -> bytes:
    """The body of a call: the whole trajectory but for its numbers of tokens."""
    data = trajectory.model_dump(mode="json", exclude={"transitions"})
    data["transitions"] = [
        {
            **transition.model_dump(mode="json", exclude={"prompt_token_ids", "choices"}),
            "choices": [
                choice.model_dump(mode="json", exclude={"token_ids", "logprobs"})
                for choice in transition.choices
            ],
        }
        for transition in trajectory.transitions
    ]
    body: dict[str, Any] = {"type": "trajectory.closed", "data": data}
    return orjson.dumps(body)


def secret_bytes(secret: str) -> bytes:
    """The key of a secret: `whsec_` and base64, as Standard Webhooks writes it, or plain text."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except Base64Error:
            pass
    return secret.encode()


def sign(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
