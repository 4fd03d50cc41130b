"""Token ids and logprobs out of the engine's JSON by byte search, without parsing it.

They are nine tenths of an answer's bytes, and nobody but the trainer reads
them: parsing them would cost more than all else the gateway does for a call.
vLLM writes compact JSON with its keys in one order. A quote inside a JSON
string is escaped, so none of the marks below can stand in a text. Whatever
does not look as expected gives None, and is parsed instead.
"""

import re
from dataclasses import dataclass

import orjson

from gateway.dialects.fold import Folded, fold_answer

LOGPROBS = b'"logprobs":{"content":['
AFTER_LOGPROBS = b',"finish_reason":'
IDS = b'"token_ids":['
PROMPT_IDS = b'"prompt_token_ids":['
_LOGPROB = re.compile(rb'"logprob":([-+.0-9eE]+),')
_WHOLE_NUMBERS = re.compile(rb"[0-9]+(?:,[0-9]+)*")


@dataclass(slots=True)
class Cut:
    """What was cut out, in order, and what is left."""

    segments: list[bytes]
    rest: bytes


def cut_out(text: bytes, mark: bytes, end: bytes, instead: bytes) -> Cut | None:
    """Cut from behind each `mark` up to `end` (a closing bracket goes too); None: no end."""
    if mark not in text:
        return Cut([], text)
    first, *parts = text.split(mark)
    segments, kept = [], [first]
    for part in parts:
        stop = part.find(end)
        if stop < 0:
            return None
        segments.append(part[:stop])
        kept.append(part[stop + (end == b"]") :])
    return Cut(segments, instead.join(kept))


def cut_answer(raw: bytes) -> tuple[bytes, Folded] | None:
    """A whole answer without ids and logprobs, and folded with them."""
    logprobs = cut_out(raw, LOGPROBS, AFTER_LOGPROBS, b'"logprobs":null')
    if logprobs is None or not logprobs.segments:
        return None
    ids = cut_out(logprobs.rest, IDS, b"]", b'"token_ids":null')
    prompt = ids and cut_out(ids.rest, PROMPT_IDS, b"]", b'"prompt_token_ids":null')
    if ids is None or prompt is None or len(prompt.segments) != 1:
        return None
    try:
        answer = orjson.loads(prompt.rest)
    except orjson.JSONDecodeError:
        return None
    folded = fold_answer(answer) if isinstance(answer, dict) else Folded()
    if not len(folded.choices) == len(ids.segments) == len(logprobs.segments):
        return None
    for choice, tokens, entries in zip(
        folded.choices, ids.segments, logprobs.segments, strict=True
    ):
        found = _LOGPROB.findall(entries)
        if len(found) != tokens.count(b",") + 1 or not _WHOLE_NUMBERS.fullmatch(tokens):
            return None
        choice.token_ids = orjson.Fragment(b"[%b]" % tokens)
        choice.logprobs = orjson.Fragment(b"[%b]" % b",".join(found))
    if not _WHOLE_NUMBERS.fullmatch(prompt.segments[0]):
        return None
    folded.prompt_token_ids = orjson.Fragment(b"[%b]" % prompt.segments[0])
    return prompt.rest, folded
