"""vLLM's usual event, one token of an answer: cleaned and folded by one regular expression.

Nine events of ten differ from the one before in a text, a logprob and a token
id. What stands around these is the same through a stream, so it is learned
from the first such event (which is parsed, to be sure of it) and compared as
bytes afterwards. Parsing each event as JSON costs five times as much. An event
that does not match is none of these: it is parsed.

A quote inside a JSON string is escaped, so the pattern cannot match inside a
text. Texts, logprobs and ids are kept as the JSON they came as.
"""

import re

import orjson

from gateway.dialects.chat import Additions, strip_answer
from gateway.dialects.fold import StreamFold
from gateway.dialects.sse import parse_chunk

_TOKEN = re.compile(
    rb'(content|reasoning|reasoning_content)":"([^"\\]*(?:\\.[^"\\]*)*)"\}'
    rb',"logprobs":\{"content":\[\{"token":"[^"\\]*(?:\\.[^"\\]*)*","logprob":(-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)'
    rb',"bytes":(?:null|\[[0-9,]*\]),"top_logprobs":\[\]\}\]\}'
    rb',"finish_reason":null,"token_ids":\[(0|[1-9][0-9]*)\]\}\]\}'
)
_BEFORE = b'"delta":{"'
_CLEANED = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
_UNPROVEN = b"\0"


class TokenEvents:
    """The token events of one stream: `take` cleans one and adds it to the fold."""

    __slots__ = (
        "_additions",
        "_alias",
        "_cleaned",
        "_fold",
        "_logprobs",
        "_prefix",
        "_texts",
        "_token_ids",
    )

    def __init__(self, additions: Additions, alias: str | None, fold: StreamFold) -> None:
        self._additions = additions
        self._alias = alias
        self._fold = fold
        self._prefix = self._cleaned = _UNPROVEN

    def take(self, event: bytes) -> bytes | None:
        """The client's bytes for a token event (without its blank line); None: it is another."""
        is_like_the_last = event.startswith(self._prefix)
        if not is_like_the_last and (self._prefix != _UNPROVEN or not self._learn(event)):
            return None
        match = _TOKEN.fullmatch(event, len(self._prefix))
        if match is None:
            return None
        name, text, logprob, token_id = match.groups()
        try:
            self._texts[name].append(text)
        except KeyError:
            self._texts[name] = [text]
        self._logprobs.append(logprob)
        self._token_ids.append(token_id)
        return b'%b%b":"%b%b' % (self._cleaned, name, text, _CLEANED)

    def _learn(self, event: bytes) -> bool:
        """Take the bytes before the delta from an event, if cutting gives what parsing gives."""
        start = event.find(_BEFORE) + len(_BEFORE)
        match = _TOKEN.fullmatch(event, start) if start > len(_BEFORE) else None
        chunk = parse_chunk(event + b"\n\n")
        if match is None or chunk is None or b'"index":0,' + _BEFORE not in event[:start]:
            return False
        cleaned = event[:start]
        if self._alias is not None:
            model = b'"model":' + orjson.dumps(chunk.get("model"))
            if cleaned.count(model) != 1:
                return False
            cleaned = cleaned.replace(model, b'"model":' + orjson.dumps(self._alias))
        cut = b'%b%b":"%b%b' % (cleaned, match[1], match[2], _CLEANED)
        strip_answer(chunk, self._additions, self._alias)
        if parse_chunk(cut) != chunk:
            return False
        self._prefix, self._cleaned = event[:start], cleaned
        answer = self._fold.first
        self._texts, self._logprobs = answer.texts, answer.logprobs
        self._token_ids = answer.token_ids
        return True
