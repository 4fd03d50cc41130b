"""What is written to the spool, and what of it goes to Redis.

A whole answer is a finished record. A stream is written down as it came,
behind the record's other fields, and folded when it is shipped: its client
does not wait for that, and neither does the event loop.

Secrets are replaced before a record is written (docs/privacy.md), with two
exceptions, where that is done on the way to Redis. A stream that is kept as it
came: its secrets may lie between two events, and are found once it is folded.
And a large record with a secret in it: to walk through it takes seconds.

A stream's payload is `s | length u32 | record JSON | raw bytes`, that of a
record whose secrets are still in it `d | record JSON`.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.call import with_answer
from gateway.dialects import completions_fold, fold, messages, responses
from gateway.dialects.fold import Folded
from gateway.redaction import without_secrets
from trajectories.model import Outcome
from trajectories.privacy.secrets import NO_REDACTION, Redactor

_LENGTH = struct.Struct("<I")
_STREAM = b"s"
_DEFERRED = b"d"
_WHOLE = b"t"
MOST_BYTES_AT_ONCE = 256 * 1024  # of text that is cleaned before the spool: some milliseconds
FOLDS: Mapping[str, Callable[[bytes], Folded]] = {
    "chat": fold.fold,
    "completions": completions_fold.fold_stream,
    "responses": responses.fold_stream,
    "messages": messages.fold_stream,
}


def whole_payload(
    record: dict[str, Any],
    answer: Folded,
    redactor: Redactor = NO_REDACTION,
    *,
    may_defer: bool = True,
) -> bytes:
    """A finished record (see `trajectories.model.pack_record`)."""
    finished = with_answer(record, answer)
    if redactor.is_on:
        if type(finished["request"]) is not orjson.Fragment:
            finished["request"] = orjson.Fragment(orjson.dumps(finished["request"]))
        messages = [choice.message for choice in answer.choices]
        texts = _texts_of(finished, messages)
        if redactor.finds(texts):
            if may_defer and len(texts) > MOST_BYTES_AT_ONCE:
                return _DEFERRED + orjson.dumps(finished)
            finished = without_secrets(finished, redactor)
    return _WHOLE + orjson.dumps(finished)


def stream_payload(
    record: dict[str, Any], dialect: str, stream: bytes, redactor: Redactor = NO_REDACTION
) -> bytes:
    """A record whose answer is still a stream, written in `dialect`."""
    record["stream_dialect"] = dialect
    head = orjson.dumps(record)
    # A larger one is cleaned with its answer.
    if len(head) <= MOST_BYTES_AT_ONCE and redactor.finds(head):
        head = orjson.dumps(without_secrets(record, redactor))
    return b"".join((_STREAM, _LENGTH.pack(len(head)), head, stream))


def _texts_of(record: dict[str, Any], messages: list[dict[str, Any]]) -> bytes:
    """All that somebody wrote, and no token ids: those are most of a record, and spell the same."""
    return orjson.dumps(
        [
            record["request"],
            messages,
            record["error"],
            record["model"],
            record["response_id"],
            record.get("session_id"),
            record.get("task"),
            record.get("agent"),
            record.get("alternates"),
        ]
    )


def usage_of(dialect: str, pieces: list[bytes]) -> dict[str, Any] | None:
    """The tokens of a stream that ended oddly, as far as it tells; None: nobody knows."""
    try:
        return FOLDS[dialect](b"".join(pieces)).usage
    except Exception:  # a stream nobody could foresee
        return None


def is_shippable(payload: bytes) -> bool:
    """Whether a payload goes to Redis as it is."""
    return not payload.startswith((_STREAM, _DEFERRED))


def shipped(payload: bytes, redactor: Redactor = NO_REDACTION) -> bytes:
    """A payload as it goes to Redis: a stream folded, what was deferred without its secrets."""
    if payload.startswith(_STREAM):
        return _folded(payload, redactor)
    if payload.startswith(_DEFERRED):
        record: dict[str, Any] = orjson.loads(memoryview(payload)[1:])
        try:
            return _WHOLE + orjson.dumps(without_secrets(record, redactor))
        except Exception as error:  # see `_left_out`
            return _left_out(record, error, redactor)
    return payload


def _folded(payload: bytes, redactor: Redactor) -> bytes:
    (length,) = _LENGTH.unpack_from(payload, 1)
    start = 1 + _LENGTH.size
    record: dict[str, Any] = orjson.loads(payload[start : start + length])
    dialect = record.pop("stream_dialect")
    try:
        answer = FOLDS[dialect](payload[start + length :])
        if "prompt_token_ids" in record:  # a secret was taken out of the prompt
            answer.prompt_token_ids = ()
        # Encoding may fail, too: what can be read may be nested deeper than can be written.
        return whole_payload(dict(record), answer, redactor, may_defer=False)
    except Exception as error:  # a stream nobody could foresee: kept, and never learned from
        record["outcome"] = Outcome.INCOMPLETE
        record["error"] = f"the stream could not be read: {type(error).__name__}: {error}"
        try:
            return whole_payload(dict(record), Folded(garbage=1), redactor, may_defer=False)
        except Exception as second:  # see `_left_out`
            return _left_out(record, second, redactor)


def _left_out(record: dict[str, Any], error: Exception, redactor: Redactor) -> bytes:
    """A record without what was said, where that cannot be cleaned: the others are not held up."""
    record["request"] = {}
    record["outcome"] = Outcome.INCOMPLETE
    record["error"] = f"the request could not be written: {type(error).__name__}: {error}"
    return whole_payload(record, Folded(garbage=1), redactor, may_defer=False)
