"""Contents: messages and large fields of requests, each stored once for its tenant.

Their keys are hashes with a secret of the tenant, so that nothing tells one
tenant what another stored. Nothing is shared between tenants, dictionaries
neither. Reading is done here; writing goes with the transition (`intake`).
"""

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Any

import orjson
from redis import Redis

from trajectories import keys
from trajectories.store.compression import Compression, Dictionary
from trajectories.store.room import Room

_CURRENT = b"current"


def message_name(digest: bytes) -> str:
    """How a content's key ends."""
    return urlsafe_b64encode(digest).decode()


class Contents(Room):
    """Reads contents, secrets and dictionaries. May be used from several threads."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.compression = Compression(self._dictionary_of)
        self._secrets: dict[str, bytes] = {}

    def secret(self, tenant: str) -> bytes:
        """What this tenant's digests are keyed by; made at its first use."""
        found = self._secrets.get(tenant)
        if found is None:
            self._redis.hsetnx(keys.MESSAGE_SECRETS, tenant, secrets.token_bytes(32))
            found = self._secrets[tenant] = bytes(self._redis.hget(keys.MESSAGE_SECRETS, tenant))
        return found

    def dictionary(self, tenant: str) -> Dictionary | None:
        """The dictionary that values are compressed with now, if one was trained."""
        key = keys.dictionaries(tenant)
        current = self._redis.hget(key, _CURRENT)
        content = self._redis.hget(key, current) if current else None
        return Dictionary(content) if content else None

    def put_dictionary(self, tenant: str, dictionary: Dictionary, *, is_current: bool) -> None:
        """Keep a dictionary for as long as the store lives: values may need it."""
        fields = {dictionary.id: dictionary.content}
        if is_current:
            fields[_CURRENT] = dictionary.id
        self._redis.hset(keys.dictionaries(tenant), mapping=fields)

    def read_contents(self, tenant: str, digests: Iterable[bytes]) -> dict[bytes, Any]:
        """Those contents that are there, parsed, in one round trip."""
        unique = list(dict.fromkeys(digests))
        if not unique:
            return {}
        prefix = keys.messages(tenant)
        found = self._redis.mget([prefix + message_name(digest) for digest in unique])
        return {
            digest: orjson.loads(self.compression.decompress(tenant, value))
            for digest, value in zip(unique, found, strict=True)
            if value is not None
        }

    def _dictionary_of(self, tenant: str, name: bytes) -> bytes | None:
        found = self._redis.hget(keys.dictionaries(tenant), name)
        return bytes(found) if found else None
