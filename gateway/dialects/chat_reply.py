"""The engine's chat answer on its way to the client: our additions taken out, the rest untouched.

Pure. Of a stream that carries token ids and logprobs for us, the usual events
go through `tokens.TokenEvents`, which does not parse, all others through
`sse.StreamCleaner`, which does; either way they are folded as they pass. A
stream to which nothing was added passes as bytes, and is folded after its end.
"""

from typing import Any

import orjson

from gateway.dialects.chat import Additions, strip_answer
from gateway.dialects.cutting import cut_answer
from gateway.dialects.fold import Folded, StreamFold, fold_answer
from gateway.dialects.sse import MAX_EVENT_BYTES, EventSplitter, StreamCleaner, is_done, parse_chunk
from gateway.dialects.tokens import TokenEvents
from gateway.errors import stream_error


class ChatReply:
    """See `reply.Reply`."""

    def __init__(self, additions: Additions, alias: str | None, model: str) -> None:
        self._additions = additions
        self._alias = alias
        self._named = self._renamed = b""
        if alias is not None and alias != model:
            self._named = b'"model":' + orjson.dumps(model)
            self._renamed = b'"model":' + orjson.dumps(alias)
        self._has_work = bool(self._named) or additions.any
        self._stream: _Stream | None = None
        self.is_done = False  # the upstream has said that its answer is whole

    # -- a stream ------------------------------------------------------------------

    @property
    def needs_bytes(self) -> bool:
        """Whether the stream's bytes have to be kept, as it is not folded here."""
        return not (self._additions.token_ids and self._additions.logprobs)

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of a stream: told by the upstream, or counted so far."""
        return None if self._stream is None else self._stream.usage

    def feed(self, piece: bytes) -> bytes:
        """The client's bytes for a piece of the stream; [DONE] waits for `finish`."""
        stream = self._stream
        if stream is None:
            folds = not self.needs_bytes
            stream = self._stream = _Stream(self._additions, self._alias, folds=folds)
        cleaned = stream.feed(piece) if self._has_work else stream.pass_on(piece)
        self.is_done = stream.is_done
        return cleaned

    def finish(self) -> bytes:
        """The last bytes, [DONE] among them; nothing when the answer is not whole."""
        if self._stream is None:
            return b""
        rest = self._stream.finish()
        self.is_done = self._stream.is_done
        return rest

    def broken(self, code: str, message: str) -> bytes:
        """What ends a stream that broke: an event that was held back, and an error."""
        held = b"" if self._stream is None else self._stream.cleaner.flush()
        return held + stream_error(code, message)

    def folded(self) -> Folded:
        """What a stream has said so far; only where its bytes are not needed."""
        return Folded() if self._stream is None else self._stream.folded()

    # -- a whole answer ------------------------------------------------------------

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
        if self._named and not self._additions.any:
            place = raw.find(self._named)  # in front of all that was said
            if 0 <= place < raw.find(b'"choices":'):
                rest = raw[place + len(self._named) :]
                return b"%b%b%b" % (raw[:place], self._renamed, rest), folded
        if self._has_work and strip_answer(answer, self._additions, self._alias):
            return orjson.dumps(answer), folded
        return raw, folded

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """An error: it leaves as it came."""
        return self.whole(raw)


class _Stream:
    """The state of one stream."""

    __slots__ = ("_fold", "_pending", "_splitter", "_tail", "_tokens", "cleaner", "is_done")

    def __init__(self, additions: Additions, alias: str | None, *, folds: bool) -> None:
        self.cleaner = StreamCleaner(additions, alias)
        self._fold = StreamFold() if folds else None
        self._tokens = TokenEvents(additions, alias, self._fold) if self._fold else None
        self._splitter: EventSplitter | None = None  # once the stream turned out to be odd
        self._pending = b""
        self._tail = b""
        self.is_done = False

    def pass_on(self, piece: bytes) -> bytes:
        """The same bytes; only [DONE] is looked for, and held back."""
        if self.is_done:
            self._tail += piece
            return b""
        if self._splitter is not None:
            return self._parse(piece)
        if self._pending:
            piece = self._pending + piece
            self._pending = b""
        # Whole lines pass, so that what is looked at begins with one.
        if b"[DONE]" in piece or b'"usage":{' in piece:
            return self._parse(piece)
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if len(piece) - end > MAX_EVENT_BYTES:
            return piece
        self._pending = piece[end:]
        return piece[:end]

    def feed(self, piece: bytes) -> bytes:
        """The client's bytes for a piece."""
        if self.is_done:
            self._tail += piece
            return b""
        if self._splitter is not None:
            return self._parse(piece)
        if self._pending:
            piece = self._pending + piece
            self._pending = b""
        if self._tokens is None or b"\r" in piece:
            return self._parse(piece)
        if piece.find(b"\n\n") == len(piece) - 2 and self.cleaner.held is None:
            token = self._tokens.take(piece[:-2])  # one event: what comes when tokens come singly
            if token is not None:
                return token
        *events, self._pending = piece.split(b"\n\n")
        if len(self._pending) > MAX_EVENT_BYTES:
            rest, self._pending = self._pending, b""
            return self._clean(events) + self._parse(rest)
        return self._clean(events)

    def finish(self) -> bytes:
        """The bytes from [DONE] on, if it came."""
        if not self.is_done:
            rest = (self._splitter.flush() if self._splitter else b"") + self._pending
            if not is_done(rest):  # some engines leave out the last blank line
                return b""
            self.is_done = True
            self._tail = rest
        return self.cleaner.flush() + self._tail

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of the answer, as far as they are known."""
        told = self.cleaner.usage
        return told if told is not None or self._fold is None else self._fold.usage

    def folded(self) -> Folded:
        """What was said so far."""
        assert self._fold is not None
        return self._fold.folded(is_done=self.is_done)

    def _clean(self, events: list[bytes]) -> bytes:
        """Whole events, without their blank lines."""
        take = self._tokens.take if self._tokens is not None else None
        cleaned: list[bytes] = []
        for number, event in enumerate(events):
            token = take(event) if take is not None else None
            if token is not None:
                if self.cleaner.held is not None:  # another event waits, and is older
                    cleaned.append(self.cleaner.flush())
                cleaned.append(token)
            elif is_done(event):
                self.is_done = True
                self._tail = b"\n\n".join([*events[number:], self._pending])
                break
            else:
                cleaned.append(self._read(event + b"\n\n"))
        return cleaned[0] if len(cleaned) == 1 else b"".join(cleaned)

    def _read(self, event: bytes) -> bytes:
        """An event that is parsed."""
        chunk = parse_chunk(event)
        if self._fold is not None:
            self._fold.add(event, chunk)
        return self.cleaner.clean_chunk(event, chunk)

    def _parse(self, piece: bytes) -> bytes:
        """From now on: whatever the stream looks like."""
        if self._splitter is None:
            self._splitter = EventSplitter()
        cleaned: list[bytes] = []
        events = self._splitter.feed(piece)
        for number, event in enumerate(events):
            if is_done(event):
                self.is_done = True
                self._tail = b"".join(events[number:]) + self._splitter.flush()
                break
            cleaned.append(self._read(event))
        return b"".join(cleaned)
