"""Token ids and logprobs out of an engine's whole answer by byte search, without parsing them.

They are nine tenths of the answer's bytes, and nobody but the trainer reads
them. vLLM writes compact JSON with its keys in one order. A quote inside a
JSON string is escaped, so none of the marks below can stand in a text. An
answer that does not look as expected gives None, and is parsed instead.
"""

import re

import orjson

from gateway.dialects.fold import Folded, fold_answer

_LOGPROBS = b'"logprobs":{"content":['
_AFTER_LOGPROBS = b',"finish_reason":'
_IDS = b'"token_ids":['
_PROMPT_IDS = b'"prompt_token_ids":['
_LOGPROB = re.compile(rb'"logprob":([^,]*),')
_OF_INTEGERS = b"0123456789,"
_OF_NUMBERS = b"0123456789,.-+eE"


def cut_answer(raw: bytes) -> tuple[bytes, Folded] | None:
    """A whole answer without ids and logprobs, and folded with them. Of one choice only.

    Numbers stay the JSON that they came as: they are only written down again.
    """
    start = raw.find(_LOGPROBS)
    end = raw.rfind(_AFTER_LOGPROBS)  # from behind: the logprobs are long
    ids = raw.find(_IDS, end)
    ids_end = raw.find(b"]", ids)
    prompt = raw.find(_PROMPT_IDS, ids_end)
    prompt_end = raw.find(b"]", prompt)
    if not 0 < start < end < ids < ids_end < prompt < prompt_end:
        return None
    token_ids = raw[ids + len(_IDS) : ids_end]
    prompt_token_ids = raw[prompt + len(_PROMPT_IDS) : prompt_end]
    if (token_ids + prompt_token_ids).translate(None, _OF_INTEGERS):
        return None
    found = _LOGPROB.findall(raw, start, end)
    logprobs = b",".join(found)
    # With two choices, what is cut out holds the logprobs of both, and the ids of one are left.
    if len(found) != token_ids.count(b",") + 1 or logprobs.translate(None, _OF_NUMBERS):
        return None
    rest = b'%b"logprobs":null%b"token_ids":null%b"prompt_token_ids":null%b' % (
        raw[:start],
        raw[end:ids],
        raw[ids_end + 1 : prompt],
        raw[prompt_end + 1 :],
    )
    try:
        answer = orjson.loads(rest)
    except orjson.JSONDecodeError:
        return None
    folded = fold_answer(answer) if isinstance(answer, dict) else Folded()
    if len(folded.choices) != 1:
        return None
    choice = folded.choices[0]
    choice.token_ids, choice.logprobs = _listed(token_ids), _listed(logprobs)
    folded.prompt_token_ids = _listed(prompt_token_ids)
    return rest, folded


def _listed(numbers: bytes) -> orjson.Fragment:
    return orjson.Fragment(b"[%b]" % numbers)
