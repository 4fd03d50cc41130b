"""What an upstream is asked for a call, and how its answer becomes the client's.

Pure, and the one place where dialects meet upstreams. An upstream that speaks
the client's dialect gets the client's body. Our policy speaks chat, since only
there do token ids come with the answer: everything else is translated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from gateway.attribution import BODY_ID_FIELDS
from gateway.call import Call
from gateway.dialects import completions, embeddings, messages, responses
from gateway.dialects.chat import (
    NO_ADDITIONS,
    TOKENS,
    Additions,
    may_add_usage,
    parse_chat,
    upstream_body,
)
from gateway.dialects.chat_reply import ChatReply
from gateway.dialects.fold import Folded
from gateway.dialects.native import EmbeddingsReply, NativeReply
from gateway.dialects.reply import Reply
from gateway.dialects.translated import TranslatedReply
from gateway.errors import ApiError, bad_request
from gateway.routing import Route
from gateway.upstreams.table import Target
from trajectories.settings import Dialect

Body = dict[str, Any]
_BODY_IDS = frozenset(BODY_ID_FIELDS)

PATHS: dict[Dialect, bytes] = {
    "chat": b"/v1/chat/completions",
    "completions": b"/v1/completions",
    "responses": b"/v1/responses",
    "messages": b"/v1/messages",
    "embeddings": b"/v1/embeddings",
}


@dataclass(slots=True, init=False)
class Asked:
    """A request for one upstream: where it goes, its body, and what becomes of the answer."""

    path: bytes
    payload: bytes
    reply: Reply
    chat_form: Body | None  # the body as a chat request, where it was not one
    stream_dialect: Dialect  # what the upstream's stream is written in
    response: responses.ResponsesAnswer | None  # an answer that can be asked for again

    def __init__(
        self,
        path: bytes,
        payload: bytes,
        reply: Reply,
        chat_form: Body | None = None,
        stream_dialect: Dialect = "chat",
    ) -> None:
        self.path = path
        self.payload = payload
        self.reply = reply
        self.chat_form = chat_form
        self.stream_dialect = stream_dialect
        self.response = None


_MODEL = b'"model"'
_ASKING_FOR_TOKENS = b',"return_token_ids":true,"logprobs":true'
_OF_TOKENS = frozenset(
    {"return_token_ids", "logprobs", "top_logprobs", "logprob_token_ids", "use_beam_search"}
)

NOT_ASKED = Asked(b"", b"", ChatReply(NO_ADDITIONS, None, ""))


def parse(dialect: Dialect, raw: bytes, deployment: str | None) -> Body:
    """A body of that dialect; `deployment` is a model that the path names. Raises ApiError."""
    if dialect == "chat":
        return parse_chat(raw, deployment)
    if dialect == "responses":
        return responses.parse_responses(raw, deployment)
    if dialect == "messages":
        return messages.parse_messages(raw)
    if dialect == "completions":
        return completions.parse_completions(raw, deployment)
    return embeddings.parse_embeddings(raw, deployment)


def ask(call: Call, target: Target, route: Route) -> Asked:
    """The request for `target`. Raises ApiError when it cannot be said there."""
    return _ASK[call.dialect](call, target, route)


def chat_form_of(call: Call) -> Body | None:
    """The body as a chat request where it is none: for the record of a call nobody was asked."""
    if call.dialect == "responses":
        history = [*call.earlier.messages] if call.earlier else []
        return responses.recorded_body(call.body, history)
    if call.dialect == "messages":
        return _chat_form_of_messages(call.body)
    return completions.chat_form(call.body) if call.dialect == "completions" else None


def error_body(dialect: Dialect, error: ApiError, request_id: str) -> bytes:
    """An error in the shape that the clients of a dialect read."""
    return messages.error_body(error, request_id) if dialect == "messages" else error.body


def _ask_chat(call: Call, target: Target, route: Route) -> Asked:
    payload: bytes | None = None
    additions = TOKENS
    if target.kind == "vllm" and _says_nothing_of_tokens(call.body):
        payload = _spliced(call, route, _ASKING_FOR_TOKENS)
    if payload is None:
        payload, additions = _chat(call.body, target, route)
    if payload is None:
        payload = _unchanged(call, route)
    return Asked(PATHS["chat"], payload, ChatReply(additions, route.alias, route.model))


def _chat(
    body: Body, target: Target, route: Route, *, needs_usage: bool = False
) -> tuple[bytes | None, Additions]:
    """A chat body with what we add to it; None when nothing has to be added."""
    if target.kind == "vllm":
        sent, additions = upstream_body(body, route.model, needs_usage=needs_usage)
        return _encode(sent), additions
    if target.kind in ("openai", "litellm") and may_add_usage(body):
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        return _encode({**_renamed(body, route), "stream_options": options}), Additions(usage=True)
    return None, NO_ADDITIONS


def _ask_completions(call: Call, target: Target, route: Route) -> Asked:
    if target.kind == "vllm":
        sent, additions = completions.upstream_body(call.body, route.model)
    else:
        sent, additions = _renamed(call.body, route), NO_ADDITIONS
    reply = completions.CompletionsReply(additions, route.alias)
    chat_form = completions.chat_form(call.body)
    return Asked(PATHS["completions"], _encode(sent), reply, chat_form, "completions")


def _ask_embeddings(call: Call, target: Target, route: Route) -> Asked:
    reply = EmbeddingsReply(
        lambda _: Folded(), lambda error: error.body, model=route.model, alias=route.alias
    )
    return Asked(PATHS["embeddings"], _encode(_renamed(call.body, route)), reply)


def _ask_responses(call: Call, target: Target, route: Route) -> Asked:
    history = [*call.earlier.messages] if call.earlier else []
    if target.is_native:
        return _ask_natively(
            call, route, responses.fold_response, responses.recorded_body(call.body, history)
        )
    body = call.body
    if call.earlier is not None:
        body = responses.with_references(body, call.earlier.responses)
    elif body.get("previous_response_id") is not None:
        wanted = body["previous_response_id"]
        message = f"there is no response {wanted} here: it may have expired, or was not stored"
        raise bad_request(message, "previous_response_id", "previous_response_not_found")
    answer = responses.ResponsesAnswer(
        body,
        response_id=f"resp_{call.id.removeprefix('tr_')}",
        model=call.model,
        created_at=call.started_at,
    )
    reply = TranslatedReply(answer, None, shows_logprobs=responses.wants_logprobs(body))
    asked = _ask_in_chat(responses.chat_body(body, history), target, route, reply)
    asked.response = answer
    return asked


def _ask_messages(call: Call, target: Target, route: Route) -> Asked:
    def refuse(error: ApiError) -> bytes:
        return messages.error_body(error, call.id)

    if target.is_native:
        chat_form = _chat_form_of_messages(call.body)
        return _ask_natively(call, route, messages.fold_message, chat_form, refuse)
    answer = messages.MessagesAnswer(
        call.body, message_id=f"msg_{call.id.removeprefix('tr_')}", model=call.model
    )
    return _ask_in_chat(
        messages.chat_body(call.body), target, route, TranslatedReply(answer, refuse)
    )


def _ask_in_chat(chat_form: Body, target: Target, route: Route, reply: Reply) -> Asked:
    payload, _ = _chat(chat_form, target, route, needs_usage=True)  # the answer tells it
    if payload is None:
        payload = _encode(_renamed(chat_form, route))
    return Asked(PATHS["chat"], payload, reply, chat_form)


def _ask_natively(
    call: Call,
    route: Route,
    fold: Callable[[Body], Folded],
    chat_form: Body,
    refuse: Callable[[ApiError], bytes] = lambda error: error.body,
) -> Asked:
    payload = _unchanged(call, route)
    reply = NativeReply(fold, refuse, model=route.model, alias=route.alias)
    return Asked(PATHS[call.dialect], payload, reply, chat_form, call.dialect)


def _chat_form_of_messages(body: Body) -> Body:
    try:
        return messages.chat_body(body)
    except ApiError:  # what the upstream can read and we cannot stays as it is
        return body


def _renamed(body: Body, route: Route) -> Body:
    """The body under the upstream's name of the model, and without what was meant for us."""
    sent = {name: value for name, value in body.items() if name not in BODY_ID_FIELDS}
    sent["model"] = route.model
    return sent


def _unchanged(call: Call, route: Route) -> bytes:
    """The client's bytes, where nothing has to change but the model's name."""
    if route.model == call.body.get("model") and _BODY_IDS.isdisjoint(call.body):
        return call.raw
    spliced = _spliced(call, route)
    return _encode(_renamed(call.body, route)) if spliced is None else spliced


def _says_nothing_of_tokens(body: Body) -> bool:
    """Whether ids and logprobs are ours alone: nothing of what speaks of them is set."""
    return _OF_TOKENS.isdisjoint(body)


def _spliced(call: Call, route: Route, members: bytes = b"") -> bytes | None:
    """The client's bytes under the upstream's name of the model, and with more members.

    None: write them anew. A quote inside a text is escaped, so what is found is a member's name;
    it is the body's own where there is no other, and none is hidden behind an escape.
    """
    raw, body = call.raw, call.body
    place = raw.find(_MODEL)
    after = place + len(_MODEL)
    if place < 0 or raw.find(_MODEL, after) >= 0 or not raw.endswith(b"}"):
        return None
    if (b"\\" in raw and b"\\u" in raw) or not _BODY_IDS.isdisjoint(body):
        return None
    named = _written(body["model"])
    after += 2 if raw.startswith(b": ", after) else 1
    if raw[after - 1] not in b": " or not raw.startswith(named, after):
        return None
    rest = raw[after + len(named) : -1]
    if rest and next(reversed(body)) == "model":
        return None  # named by Azure's path, and added last: what was found is something else's
    return b"%b%b%b%b}" % (raw[:after], _written(route.model), rest, members)


@lru_cache(maxsize=1024)
def _written(name: str) -> bytes:
    return orjson.dumps(name)


def _encode(body: Body) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise bad_request(f"the body cannot be forwarded: {error}", code="bad_json") from error


_ASK: dict[Dialect, Callable[[Call, Target, Route], Asked]] = {
    "chat": _ask_chat,
    "completions": _ask_completions,
    "responses": _ask_responses,
    "messages": _ask_messages,
    "embeddings": _ask_embeddings,
}
