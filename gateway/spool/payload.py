"""What is written to the spool, and what of it goes to Redis.

A whole answer is a finished record. A stream is written down as it came,
behind the record's other fields, and folded when it is shipped: its client
does not wait for that, and neither does the event loop.

A stream's payload is `s | length u32 | record JSON | raw bytes`.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.call import with_answer
from gateway.dialects import completions_fold, fold, messages, responses
from gateway.dialects.fold import Folded
from trajectories.model import Outcome

_LENGTH = struct.Struct("<I")
_STREAM = b"s"
FOLDS: Mapping[str, Callable[[bytes], Folded]] = {
    "chat": fold.fold,
    "completions": completions_fold.fold_stream,
    "responses": responses.fold_stream,
    "messages": messages.fold_stream,
}


def whole_payload(record: dict[str, Any], answer: Folded) -> bytes:
    """A finished record (see `trajectories.model.pack_record`)."""
    return b"t" + orjson.dumps(with_answer(record, answer))


def stream_payload(record: dict[str, Any], dialect: str, stream: bytes) -> bytes:
    """A record whose answer is still a stream, written in `dialect`."""
    record["stream_dialect"] = dialect
    head = orjson.dumps(record)
    return b"".join((_STREAM, _LENGTH.pack(len(head)), head, stream))


def usage_of(dialect: str, pieces: list[bytes]) -> dict[str, Any] | None:
    """The tokens of a stream that ended oddly, as far as it tells; None: nobody knows."""
    try:
        return FOLDS[dialect](b"".join(pieces)).usage
    except Exception:  # a stream nobody could foresee
        return None


def is_shippable(payload: bytes) -> bool:
    """Whether a payload goes to Redis as it is."""
    return not payload.startswith(_STREAM)


def shipped(payload: bytes) -> bytes:
    """A payload as it goes to Redis: a stream folded, everything else as it is."""
    if is_shippable(payload):
        return payload
    (length,) = _LENGTH.unpack_from(payload, 1)
    start = 1 + _LENGTH.size
    record: dict[str, Any] = orjson.loads(payload[start : start + length])
    dialect = record.pop("stream_dialect")
    try:
        answer = FOLDS[dialect](payload[start + length :])
        # Encoding may fail, too: what can be read may be nested deeper than can be written.
        return b"t" + orjson.dumps(with_answer(dict(record), answer))
    except Exception as error:  # a stream nobody could foresee: kept, and never learned from
        record["outcome"] = Outcome.INCOMPLETE
        record["error"] = f"the stream could not be read: {type(error).__name__}: {error}"
        return b"t" + orjson.dumps(with_answer(record, Folded(garbage=1)))
