"""Chat Completions: what is read from a body, added for the upstream, and taken out again.

Pure. Training needs the engine's token ids and logprobs; the client did not
ask for them. So they are asked for here, and the answer is given back as vLLM
would have sent it without us: the same keys, with `null` where vLLM writes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import orjson

from gateway.attribution import BODY_ID_FIELDS
from gateway.errors import bad_request

MAX_DEPTH = 200  # orjson reads 1024 levels and writes 254; the record adds a few
_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_CONSTRAINING = frozenset((*_GRAMMARS, "response_format", "tool_choice", "tools"))
# A sampling parameter of the API -> its kind, and the field of `Sampling` it is kept in.
_SAMPLING: dict[str, tuple[type, str]] = {
    "temperature": (float, "temperature"),
    "top_p": (float, "top_p"),
    "top_k": (int, "top_k"),
    "min_p": (float, "min_p"),
    "max_tokens": (int, "max_tokens"),
    "max_completion_tokens": (int, "max_tokens"),
    "seed": (int, "seed"),
    "presence_penalty": (float, "presence_penalty"),
    "frequency_penalty": (float, "frequency_penalty"),
    "repetition_penalty": (float, "repetition_penalty"),
}


_INTEGERS = frozenset({int})
_NUMBERS = frozenset({float, int})


@dataclass(slots=True, init=False)
class FoldedChoice:
    """One answer of a call, in the fields of `trajectories.model.Choice` (and far cheaper)."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None
    token_ids: Sequence[int] | orjson.Fragment
    logprobs: Sequence[float] | orjson.Fragment

    def __init__(
        self,
        message: dict[str, Any],
        finish_reason: str | None,
        token_ids: Sequence[int] | orjson.Fragment = (),
        logprobs: Sequence[float] | orjson.Fragment = (),
        *,
        index: int = 0,
    ) -> None:
        self.index = index
        self.message = message
        self.finish_reason = finish_reason
        self.token_ids = token_ids
        self.logprobs = logprobs


@dataclass(frozen=True, slots=True)
class Additions:
    """What we ask for on top of the client's wishes, and must take out again."""

    token_ids: bool = False
    logprobs: bool = False
    usage: bool = False

    @property
    def any(self) -> bool:
        """Whether anything was added."""
        return self.token_ids or self.logprobs or self.usage


NO_ADDITIONS = Additions()
_BOTH = (False, True)
TOKENS = Additions(token_ids=True, logprobs=True)
_ADDITIONS = {key: Additions(*key) for key in product(_BOTH, _BOTH, _BOTH)}


def parse_chat(raw: bytes, deployment: str | None = None) -> dict[str, Any]:
    """The body as an object, or an ApiError that says what is wrong with it.

    `deployment` is the model where the path names it and the body does not (Azure).
    """
    body = parse_object(raw)
    if deployment is not None and body.get("model") is None:
        body["model"] = deployment
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise bad_request("`model` must be a non-empty string", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(entry, dict) for entry in messages):
        raise bad_request("`messages` must be a list of objects", "messages")
    return body


def parse_object(raw: bytes, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Strict JSON: no NaN, valid UTF-8, no lone surrogate, bounded depth, an object."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}", code="bad_json") from error
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object", code="bad_json")
    # Compiled, a walk costs less than to count the brackets: it does not look into texts.
    if _is_deeper(body, max_depth):
        raise bad_request(f"the body is nested deeper than {max_depth} levels", code="bad_json")
    return body


def _is_deeper(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit + 1):
        deeper: list[object] = []
        for entry in level:
            if isinstance(entry, dict):
                deeper += [inner for inner in entry.values() if isinstance(inner, (dict, list))]
            elif isinstance(entry, list):
                deeper += [inner for inner in entry if isinstance(inner, (dict, list))]
        if not deeper:
            return False
        level = deeper
    return True


def upstream_body(
    body: dict[str, Any], model: str, *, needs_usage: bool = False
) -> tuple[dict[str, Any], Additions]:
    """The body for the engine, and what was added to it.

    A stream's tokens are counted from their ids where these are asked for, and
    the engine is not asked for `usage` unless it `needs_usage` all the same.
    """
    sent = {name: value for name, value in body.items() if name not in BODY_ID_FIELDS}
    sent["model"] = model
    adds_token_ids = body.get("return_token_ids") in (None, False)
    if adds_token_ids:
        sent["return_token_ids"] = True
    adds_logprobs = _may_add_logprobs(body)
    if adds_logprobs:
        sent["logprobs"] = True
    counts_tokens = adds_token_ids and adds_logprobs  # it is folded as it passes
    adds_usage = may_add_usage(body) and (needs_usage or not counts_tokens)
    if adds_usage:
        options = dict(body.get("stream_options") or {})
        # Without include_usage this asked for nothing; with ours it would put usage on each chunk.
        options.pop("continuous_usage_stats", None)
        sent["stream_options"] = {**options, "include_usage": True}
    return sent, _ADDITIONS[adds_token_ids, adds_logprobs, adds_usage]


def _may_add_logprobs(body: dict[str, Any]) -> bool:
    # These are errors, or mean something else, without logprobs: the engine must see that.
    if body.get("top_logprobs") or body.get("logprob_token_ids") or body.get("use_beam_search"):
        return False
    return body.get("logprobs") in (None, False)


def may_add_usage(body: dict[str, Any]) -> bool:
    """Whether a stream can be asked for its usage without the client's seeing it."""
    # With n > 1 the last chunk of each answer cannot be held until usage is known (see sse.py);
    # there the usage is counted from the token ids.
    if body.get("stream") is not True or body.get("n") not in (None, 1):
        return False
    options = body.get("stream_options")
    if options is None:
        return True
    return isinstance(options, dict) and options.get("include_usage") in (None, False)


def strip_answer(answer: dict[str, Any], additions: Additions, alias: str | None) -> bool:
    """Take our additions out of a whole answer, in place; False when nothing had to change."""
    has_changed = False
    if alias is not None and isinstance(answer.get("model"), str) and answer["model"] != alias:
        answer["model"] = alias
        has_changed = True
    if additions.token_ids and answer.get("prompt_token_ids") is not None:
        answer["prompt_token_ids"] = None
        has_changed = True
    for choice in _choices(answer):
        if additions.token_ids and choice.get("token_ids") is not None:
            choice["token_ids"] = None
            has_changed = True
        if additions.logprobs and choice.get("logprobs") is not None:
            choice["logprobs"] = None
            has_changed = True
    return has_changed


def _choices(answer: dict[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def choices_of(answer: dict[str, Any]) -> tuple[FoldedChoice, ...]:
    """The answers of a call, with the engine's ids and logprobs."""
    found: list[FoldedChoice] = []
    for choice in _choices(answer):
        index, message = choice.get("index"), choice.get("message")
        folded = FoldedChoice(
            message if isinstance(message, dict) else {},
            as_text(choice.get("finish_reason")),
            as_token_ids(choice.get("token_ids")),
            as_logprobs(choice.get("logprobs")),
            index=index if isinstance(index, int) else len(found),
        )
        found.append(folded)
    return tuple(found)


def as_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def as_token_ids(value: object) -> list[int]:
    """Token ids, or nothing when they are not all integers."""
    if not isinstance(value, list) or not _INTEGERS.issuperset(map(type, value)):
        return []
    return value


def as_logprobs(value: object) -> list[float]:
    """The sampled tokens' logprobs, or nothing when one is missing."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return []
    try:
        found = [entry["logprob"] for entry in content]
    except (KeyError, TypeError, IndexError):
        return []
    return found if _NUMBERS.issuperset(map(type, found)) else []


def sampling_of(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Sampling` that the client set; what it left out is the engine's default."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        wanted = _SAMPLING.get(name)
        if wanted is None:
            continue
        kind, field = wanted
        if type(value) is int:
            found.setdefault(field, value)
        elif type(value) is float and kind is float:
            found[field] = value
    if type(body.get("max_completion_tokens")) is int:
        found["max_tokens"] = body["max_completion_tokens"]
    if not _CONSTRAINING.isdisjoint(body) and _is_constrained(body):
        found["is_constrained"] = True
    return found


def _is_constrained(body: dict[str, Any]) -> bool:
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") not in (None, "text"):
        return True
    choice = body.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        return True
    if any(body.get(name) is not None for name in _GRAMMARS):
        return True
    tools = body.get("tools")
    listed = tools if isinstance(tools, list) else []
    functions = [tool.get("function") for tool in listed if isinstance(tool, dict)]
    return any(isinstance(f, dict) and f.get("strict") is True for f in functions)
