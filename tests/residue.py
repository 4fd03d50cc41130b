"""What is left of something: every byte in Redis and in files, packed or not."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard


def in_redis(redis: Any) -> bytes:
    """Every value in Redis, and what is stored of transitions and contents unpacked as well."""
    found: list[bytes] = []
    for key in redis.scan_iter(count=1000):
        found.append(key)
        kind = redis.type(key)
        if kind == b"string":
            found.append(redis.get(key))
        elif kind == b"hash":
            found += [part for pair in redis.hgetall(key).items() for part in pair]
        elif kind == b"zset":
            found += redis.zrange(key, 0, -1)
        elif kind == b"set":
            found += redis.smembers(key)
        elif kind == b"list":
            found += redis.lrange(key, 0, -1)
        elif kind == b"stream":
            found += [value for _, fields in redis.xrange(key) for value in fields.values()]
    return b"\n".join(found) + b"\n".join(map(unpacked, found))


def unpacked(value: bytes) -> bytes:
    """Whatever may be a zstandard frame in a value, with its magic number or without."""
    plain: list[bytes] = []
    magicless = {"format": zstandard.FORMAT_ZSTD1_MAGICLESS}
    for mark, skipped, options in ((zstandard.FRAME_HEADER, 0, {}), (b"\x01", 1, magicless)):
        at = value.find(mark)
        while at >= 0:
            with suppress(zstandard.ZstdError):
                frame = zstandard.ZstdDecompressor(**options).decompressobj()
                plain.append(frame.decompress(value[at + skipped :]))
            at = value.find(mark, at + 1)
    return b"\n".join(plain)


def in_files(directory: Path) -> bytes:
    """The same of every file below a directory."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return b"\n".join(path.read_bytes() + unpacked(path.read_bytes()) for path in files)
