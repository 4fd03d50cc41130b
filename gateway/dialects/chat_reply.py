"""The engine's chat answer on its way to the client: our additions taken out, the rest untouched.

Pure. Events are not parsed as they pass: what we asked for is cut out by byte
search, as vLLM writes its keys in one order (a quote inside a JSON string is
escaped, so a key cannot be mistaken). Unusual events, such as the first and
the last of an answer, go through `sse.StreamCleaner`, which parses. The first
event that is cut is parsed as well; where the two ways differ, the rest of the
stream is parsed.
"""

from typing import Any

import orjson

from gateway.dialects.chat import Additions, strip_answer
from gateway.dialects.cutting import (
    AFTER_LOGPROBS as _AFTER_LOGPROBS,
)
from gateway.dialects.cutting import (
    IDS as _IDS,
)
from gateway.dialects.cutting import (
    LOGPROBS as _LOGPROBS,
)
from gateway.dialects.cutting import (
    PROMPT_IDS as _PROMPT_IDS,
)
from gateway.dialects.cutting import (
    cut_answer,
    cut_out,
)
from gateway.dialects.fold import Folded, fold_answer
from gateway.dialects.sse import (
    MAX_EVENT_BYTES,
    EventSplitter,
    StreamCleaner,
    is_done,
    parse_chunk,
)
from gateway.errors import stream_error

_UNUSUAL = (
    b'"finish_reason":"',
    b'"choices":[]',
    b'"delta":{}',
    b'"usage":',
    b'"error"',
    b"[DONE]",
)


class ChatReply:
    """One answer: `feed` and `finish` for a stream, `whole` for the other kind."""

    def __init__(self, additions: Additions, alias: str | None, model: str) -> None:
        self._additions = additions
        self._alias = alias
        self._has_work = alias is not None or additions != Additions()
        self._cleaner = StreamCleaner(additions, alias)
        self._splitter = EventSplitter()
        self._pending = b""
        self._tail = b""
        self._is_fast = True
        self._is_proven = False
        self._named = self._renamed = b""
        if alias is not None and alias != model:
            self._named = b'"model":' + orjson.dumps(model) + b","
            self._renamed = b'"model":' + orjson.dumps(alias) + b","
        self.is_done = False  # the upstream has said that its answer is whole

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of a stream, once the upstream has told them."""
        return self._cleaner.usage

    def feed(self, piece: bytes) -> bytes:
        """The client's bytes for a piece of the stream; [DONE] waits for `finish`."""
        if self.is_done:
            self._tail += piece
            return b""
        if not self._is_fast:
            return self._parse(piece)
        if self._pending:
            piece = self._pending + piece
        if b"\r" in piece or len(piece) > MAX_EVENT_BYTES:
            return self._parse_from_now_on(piece)
        end = piece.rfind(b"\n\n") + 2
        if end == 1:
            self._pending = piece
            return b""
        if end == len(piece):
            self._pending = b""
            return self._clean(piece)
        self._pending = piece[end:]
        return self._clean(piece[:end])

    def finish(self) -> bytes:
        """The last bytes, [DONE] among them; nothing when the answer is not whole."""
        if not self.is_done:
            rest = self._splitter.flush() + self._pending
            if not is_done(rest):  # some engines leave out the last blank line
                return b""
            self.is_done = True
            self._tail = rest
        return self._cleaner.flush() + self._tail

    def broken(self, code: str, message: str) -> bytes:
        """What ends a stream that broke: an event that was held back, and an error."""
        return self._cleaner.flush() + stream_error(code, message)

    def whole(self, raw: bytes) -> tuple[bytes, Folded]:
        """The client's bytes for a whole answer, and what of it is recorded."""
        if self._additions.logprobs and self._additions.token_ids:
            found = cut_answer(raw)
            if found is not None:
                rest, folded = found
                return rest.replace(self._named, self._renamed) if self._named else rest, folded
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            return raw, Folded(garbage=1)
        folded = fold_answer(answer)
        if self._has_work and strip_answer(answer, self._additions, self._alias):
            return orjson.dumps(answer), folded
        return raw, folded

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """An error: it leaves as it came."""
        return self.whole(raw)

    # -- events --------------------------------------------------------------------

    def _clean(self, events: bytes) -> bytes:
        """Whole events, cleaned: runs of usual ones by cutting, the others by parsing."""
        if not self._has_work and b"[DONE]" not in events:
            return events
        start, size, cleaned = 0, len(events), []
        marks = [events.find(mark) for mark in _UNUSUAL]
        while start < size:
            for number, mark in enumerate(marks):
                if 0 <= mark < start:
                    marks[number] = events.find(_UNUSUAL[number], start)
            first = min((mark for mark in marks if mark >= 0), default=size)
            # The usual ones end where the event begins that the mark stands in.
            stop = size if first == size else events.rfind(b"\n\n", start, first) + 2
            if stop > start + 1:
                cut = self._cut(events if stop - start == size else events[start:stop])
                if cut is None:
                    cleaned.append(self._parse_from_now_on(events[start:] + self._pending))
                    break
                cleaned.append(cut)
                start = stop
            else:
                stop = events.find(b"\n\n", start) + 2
                cleaned.append(self._parse(events[start:stop]))
                start = stop
                if self.is_done:
                    self._tail += events[start:] + self._pending
                    self._pending = b""
                    break
        return cleaned[0] if len(cleaned) == 1 else b"".join(cleaned)

    def _cut(self, events: bytes) -> bytes | None:
        """Usual events without our additions; None when they are not as vLLM writes them."""
        cut = self._cut_additions(events)
        if cut is not None and not self._is_proven:
            event = events[events.rfind(b"\n\n", 0, -2) + 2 :] if b"\n\n" in events[:-2] else events
            self._is_proven = _LOGPROBS in event or not self._additions.logprobs
            cleaned = StreamCleaner(self._additions, self._alias).clean(event)
            if parse_chunk(self._cut_additions(event) or b"") != parse_chunk(cleaned):
                return None
        return None if cut is None else self._cleaner.flush() + cut

    def _cut_additions(self, events: bytes) -> bytes | None:
        if self._additions.logprobs:
            cut = cut_out(events, _LOGPROBS, _AFTER_LOGPROBS, b'"logprobs":null')
            if cut is None or not all(segment.endswith(b"]}") for segment in cut.segments):
                return None
            events = cut.rest
        if self._additions.token_ids:
            for name in (_IDS, _PROMPT_IDS):
                cut = cut_out(events, name, b"]", name[:-1] + b"null")
                if cut is None:
                    return None
                events = cut.rest
        return events.replace(self._named, self._renamed) if self._named else events

    def _parse_from_now_on(self, piece: bytes) -> bytes:
        self._is_fast = False
        self._pending = b""
        return self._parse(piece)

    def _parse(self, piece: bytes) -> bytes:
        cleaned: list[bytes] = []
        events = self._splitter.feed(piece)
        for number, event in enumerate(events):
            if is_done(event):
                self.is_done = True
                self._tail = b"".join(events[number:]) + self._splitter.flush()
                break
            cleaned.append(self._cleaner.clean(event))
        return b"".join(cleaned)
