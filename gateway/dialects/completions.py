"""Legacy completions: what is read from a body, added for the engine, and taken out again.

Pure. As in `chat`, token ids and logprobs are asked for where that changes
nothing else: not with `echo` (vLLM then leaves out the text of the prompt) and
not for several prompts at once, which make no transition one could learn from.
"""

from typing import Any

import orjson

from gateway.attribution import BODY_ID_FIELDS
from gateway.dialects.chat import Additions, parse_object, strip_answer
from gateway.dialects.completions_fold import fold_answer
from gateway.dialects.fold import Folded
from gateway.dialects.sse import EventSplitter, StreamCleaner, is_done, parse_chunk
from gateway.errors import bad_request, stream_error

_PROMPT_IDS, _NO_PROMPT_IDS = b'"prompt_token_ids"', b'"prompt_token_ids":null'
_DATA = b"data: "


def parse_completions(raw: bytes, deployment: str | None = None) -> dict[str, Any]:
    """The body as an object, or an ApiError. `deployment` is the model where the path names it."""
    body = parse_object(raw)
    if deployment is not None and body.get("model") is None:
        body["model"] = deployment
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise bad_request("`model` must be a non-empty string", "model")
    if not _is_prompt(body.get("prompt")) and body.get("prompt_embeds") is None:
        raise bad_request("`prompt` must be text, token ids, or a list of one of them", "prompt")
    return body


def _is_prompt(prompt: object) -> bool:
    if isinstance(prompt, str):
        return True
    if not isinstance(prompt, list):
        return False
    return (
        _are_ids(prompt)
        or all(isinstance(entry, str) for entry in prompt)
        or all(isinstance(entry, list) and _are_ids(entry) for entry in prompt)
    )


def _are_ids(prompt: list[object]) -> bool:
    return all(type(entry) is int for entry in prompt)


def upstream_body(body: dict[str, Any], model: str) -> tuple[dict[str, Any], Additions]:
    """The body for the engine, and what was added to it."""
    sent = {name: value for name, value in body.items() if name not in BODY_ID_FIELDS}
    sent["model"] = model
    has_one_prompt = len(_prompts(body)) == 1
    is_plain = has_one_prompt and not body.get("echo")
    adds_token_ids = is_plain and body.get("return_token_ids") in (None, False)
    if adds_token_ids:
        sent["return_token_ids"] = True
    adds_logprobs = is_plain and _may_add_logprobs(body)
    if adds_logprobs:
        sent["logprobs"] = 0  # the sampled token's, and no others
    adds_usage = has_one_prompt and _may_add_usage(body)
    if adds_usage:
        options = dict(body.get("stream_options") or {})
        # Without include_usage this asked for nothing; with ours each chunk would carry usage.
        options.pop("continuous_usage_stats", None)
        sent["stream_options"] = {**options, "include_usage": True}
    return sent, Additions(adds_token_ids, adds_logprobs, adds_usage)


def _prompts(body: dict[str, Any]) -> list[Any]:
    """The prompts of a body; none where they are given as embeddings."""
    prompt = body.get("prompt")
    if body.get("prompt_embeds") is not None:
        return []
    return prompt if isinstance(prompt, list) and not _are_ids(prompt) else [prompt]


def _may_add_logprobs(body: dict[str, Any]) -> bool:
    # These are errors, or mean something else, without logprobs: the engine must see that.
    if body.get("logprob_token_ids") or body.get("use_beam_search"):
        return False
    return body.get("logprobs") is None


def _may_add_usage(body: dict[str, Any]) -> bool:
    # With n > 1 the usage is counted from the token ids; see `chat`.
    if body.get("stream") is not True or body.get("n") not in (None, 1):
        return False
    options = body.get("stream_options")
    if options is None:
        return True
    return isinstance(options, dict) and options.get("include_usage") in (None, False)


def chat_form(body: dict[str, Any]) -> dict[str, Any]:
    """The request as chat, for the record: each prompt a user's message, ids as their JSON."""
    messages = [
        {"role": "user", "content": p if isinstance(p, str) else orjson.dumps(p).decode()}
        for p in _prompts(body)
    ]
    unsaid = {"model", "prompt", "prompt_embeds", "echo", "logprobs", *BODY_ID_FIELDS}
    asked = {name: value for name, value in body.items() if name not in unsaid}
    if type(body.get("logprobs")) is int:
        asked |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return {"model": body["model"], "messages": messages, **asked}


class CompletionsReply:
    """One answer on its way to the client; see `reply.Reply`."""

    def __init__(self, additions: Additions, alias: str | None) -> None:
        self._additions = additions
        self._alias = alias
        self._cleaner = StreamCleaner(additions, alias)
        self._splitter = EventSplitter()
        self._tail = b""
        self.is_done = False  # the upstream has said that its answer is whole

    @property
    def needs_bytes(self) -> bool:
        """A stream is folded when it is shipped."""
        return True

    def folded(self) -> Folded:
        """Nothing: see `needs_bytes`."""
        return Folded()

    @property
    def usage(self) -> dict[str, Any] | None:
        """The tokens of a stream, once the upstream has told them."""
        return self._cleaner.usage

    def feed(self, piece: bytes) -> bytes:
        """The client's bytes for a piece of the stream; [DONE] waits for `finish`."""
        if self.is_done:
            self._tail += piece
            return b""
        cleaned: list[bytes] = []
        events = self._splitter.feed(piece)
        for number, event in enumerate(events):
            if is_done(event):
                self.is_done = True
                self._tail = b"".join(events[number:]) + self._splitter.flush()
                break
            cleaned.append(self._clean(event))
        return b"".join(cleaned)

    def finish(self) -> bytes:
        """The last bytes, [DONE] among them; nothing when the answer is not whole."""
        if not self.is_done:
            rest = self._splitter.flush()
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
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            return raw, Folded(garbage=1)
        folded = fold_answer(answer)
        has_changed = strip(answer, self._additions, self._alias)
        return (orjson.dumps(answer) if has_changed else raw), folded

    def refusal(self, status: int, raw: bytes) -> tuple[bytes, Folded]:
        """An error: it leaves as it came."""
        return self.whole(raw)

    def _clean(self, event: bytes) -> bytes:
        # The one addition that chat keeps elsewhere; it comes once for each answer.
        has_ids = _PROMPT_IDS in event and _NO_PROMPT_IDS not in event
        if self._additions.token_ids and has_ids:
            chunk = parse_chunk(event)
            if chunk is not None and _strip_prompt_ids(chunk):
                event = _DATA + orjson.dumps(chunk) + b"\n\n"
        return self._cleaner.clean(event)


def strip(answer: dict[str, Any], additions: Additions, alias: str | None) -> bool:
    """Take our additions out of a whole answer, in place; False when nothing had to change."""
    has_ids = additions.token_ids and _strip_prompt_ids(answer)
    return strip_answer(answer, additions, alias) or has_ids


def _strip_prompt_ids(answer: dict[str, Any]) -> bool:
    choices = answer.get("choices")
    found = [
        choice
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict) and choice.get("prompt_token_ids") is not None
    ]
    for choice in found:
        choice["prompt_token_ids"] = None
    return bool(found)
