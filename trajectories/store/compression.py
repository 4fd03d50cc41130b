"""Values as they stand in Redis: compressed with zstd where that pays, and readable for good.

The first byte says how: raw, zstd, or zstd with a dictionary, whose id follows.
A dictionary's id is a hash of it, so that two of them are never taken for each
other; how one comes about is the subject of `workers/dictionaries.py`.
"""

import threading
from collections.abc import Callable
from hashlib import blake2b

import zstandard

from trajectories.errors import RecordError

LEVEL = 3
LEVEL_OF_SHORT = 6  # costs little there, and takes a tenth off
SHORT_BYTES = 400
ID_BYTES = 4
_RAW, _ZSTD, _WITH_DICTIONARY = b"\x00", b"\x01", b"\x02"
_LEAST_BYTES = 48  # what is shorter gains nothing
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS  # four bytes less in each value


class Dictionary:
    """A trained dictionary, ready to compress. Of one thread."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.id = blake2b(content, digest_size=ID_BYTES).digest()
        self._short = _prepared(content, LEVEL_OF_SHORT)
        self._long = _prepared(content, LEVEL)

    def compress(self, raw: bytes) -> bytes:
        return (self._short if len(raw) <= SHORT_BYTES else self._long).compress(raw)


class Compression:
    """Compresses and decompresses. `fetch` finds a dictionary by tenant and id; None: it is lost.

    Decompressing is for any thread, compressing for one.
    """

    def __init__(self, fetch: Callable[[str, bytes], bytes | None]) -> None:
        self._fetch = fetch
        self._plain = zstandard.ZstdCompressor(compression_params=_parameters(LEVEL))
        self._of_thread = threading.local()

    def compress(self, raw: bytes, dictionary: Dictionary | None) -> bytes:
        """The shortest of the three forms."""
        if len(raw) < _LEAST_BYTES:
            return _RAW + raw
        if dictionary is not None:
            value = _WITH_DICTIONARY + dictionary.id + dictionary.compress(raw)
        else:
            value = _ZSTD + self._plain.compress(raw)
        return value if len(value) <= len(raw) else _RAW + raw

    def decompress(self, tenant: str, value: bytes) -> bytes:
        """The inverse; raises RecordError when `value` is broken or its dictionary is lost."""
        kind = value[:1]
        if kind == _RAW:
            return value[1:]
        try:
            if kind == _ZSTD:
                return self._decompressor(tenant, b"").decompress(value[1:])
            if kind == _WITH_DICTIONARY:
                start = 1 + ID_BYTES
                return self._decompressor(tenant, value[1:start]).decompress(value[start:])
        except zstandard.ZstdError as error:
            raise RecordError(f"a stored value cannot be decompressed: {error}") from error
        raise RecordError(f"a stored value of unknown form {kind!r}")

    def _decompressor(self, tenant: str, name: bytes) -> zstandard.ZstdDecompressor:
        known: dict[bytes, zstandard.ZstdDecompressor] = self._of_thread.__dict__.setdefault(
            "known", {}
        )
        found = known.get(name)
        if found is None:
            content = self._fetch(tenant, name) if name else b""
            if content is None:
                raise RecordError(f"dictionary {name.hex()} of tenant {tenant} is lost")
            data = zstandard.ZstdCompressionDict(content) if name else None
            found = zstandard.ZstdDecompressor(dict_data=data, format=_FORMAT)
            known[name] = found
        return found


def _prepared(content: bytes, level: int) -> zstandard.ZstdCompressor:
    parameters, data = _parameters(level), zstandard.ZstdCompressionDict(content)
    data.precompute_compress(compression_params=parameters)
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=data)


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters.from_level(
        level, format=_FORMAT, write_content_size=1, write_dict_id=0, write_checksum=0
    )


def used_dictionary(value: bytes) -> bytes | None:
    """Id of the dictionary that a compressed value needs, if it needs one."""
    return value[1 : 1 + ID_BYTES] if value[:1] == _WITH_DICTIONARY else None
