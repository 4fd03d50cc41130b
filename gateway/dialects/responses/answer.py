"""The answer to a Responses call, made from the answer of an engine that speaks chat.

Pure. It is written anew from the engine's text, calls and reasoning, so that
nothing we asked for in between (token ids, logprobs) can be in it.
"""

from typing import Any

from gateway.dialects.chat import as_text
from gateway.dialects.responses.events import Events
from gateway.dialects.responses.logprobs import of_text, read_logprobs
from gateway.dialects.responses.output import Output
from gateway.dialects.responses.references import item_stem
from gateway.dialects.responses.tools import tools_of

LOGPROBS = "message.output_text.logprobs"
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKEN = ("abort", "error")
_ERROR_CODES = ("server_error", "rate_limit_exceeded", "invalid_prompt")
# Parts of the answer that are the request's own: what stands for a null.
_ECHO: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}


class ResponsesAnswer:
    """The answer to one call: `whole`, or `begin`, `chunk`s and `finish` or `broken`.

    `response` is the Response object as it stands, output and usage included
    once the answer has ended. `response_id` begins with `resp_`.
    """

    def __init__(
        self, body: dict[str, Any], *, response_id: str, model: str, created_at: float
    ) -> None:
        self.response = _begun(body, response_id, model, int(created_at))
        self._shows_logprobs = wants_logprobs(body)
        self._stem = item_stem(response_id)
        self._tools = tools_of(body)
        self._events = Events()
        self._output = Output(self._events, self._stem, self._tools)
        self._finish_reason: str | None = None
        self._failure: dict[str, Any] = {}
        self._has_begun = self._has_ended = False

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The Response object of a chat completion."""
        self._output = Output(Events(is_heard=False), self._stem, self._tools)
        choice = _first_choice(answer)
        message = choice.get("message")
        self._keep(answer, choice)
        if isinstance(message, dict):
            self._output.add(message, self._logprobs_of(choice, message))
            self._end()
        else:
            self._fail("server_error", "the engine sent no answer")
        return self.response

    def begin(self) -> bytes:
        """The first events; what follows sends them where this was not called."""
        self._begin()
        return self._events.take()

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """The events of one chat chunk. One with an error ends the answer."""
        if self._has_ended:
            return b""
        if chunk.get("error"):
            error = chunk["error"]
            message = as_text(error.get("message")) if isinstance(error, dict) else str(error)
            return self.broken("server_error", message or "the engine failed")
        self._begin()
        choice = _first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            shown = self._shows_logprobs and choice.get("logprobs")
            self._output.add(delta, read_logprobs(choice["logprobs"]) if shown else [])
        self._keep(chunk, choice)
        return self._events.take()

    def finish(self) -> bytes:
        """The closing events of a stream whose last byte has come."""
        if self._has_ended:
            return b""
        self._begin()
        self._end()
        self._tell_end()
        return self._events.take()

    def broken(self, code: str, message: str) -> bytes:
        """The events that end a stream which will not go on."""
        if self._has_ended:
            return b""
        self._begin()
        self._fail(code, message)
        self._tell_end()
        return self._events.take()

    def output_messages(self) -> list[dict[str, Any]]:
        """The answer as chat has it, to go on from."""
        return [self._output.chat_message()]

    def _logprobs_of(self, choice: dict[str, Any], message: dict[str, Any]) -> list[dict[str, Any]]:
        if not self._shows_logprobs or not choice.get("logprobs"):
            return []
        entries = read_logprobs(choice["logprobs"])
        others = ("reasoning", "reasoning_content", "tool_calls")
        is_text_only = not any(message.get(name) for name in others)
        return of_text(entries, as_text(message.get("content")) or "") or (
            entries if is_text_only else []
        )

    def _keep(self, answer: dict[str, Any], choice: dict[str, Any]) -> None:
        self._finish_reason = as_text(choice.get("finish_reason")) or self._finish_reason
        if answer.get("usage"):
            self.response["usage"] = _usage(answer["usage"])

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._events.add("response.created", response=self.response)
            self._events.add("response.in_progress", response=self.response)

    def _end(self) -> None:
        if self._finish_reason in _BROKEN:
            self._fail("server_error", "the engine broke the answer off")
            return
        reason = _INCOMPLETE.get(self._finish_reason or "")
        status = "completed" if reason is None else "incomplete"
        self._has_ended = True
        self.response["output"] = self._output.close(status)
        self.response["status"] = status
        if reason is not None:
            self.response["incomplete_details"] = {"reason": reason}

    def _fail(self, code: str, message: str) -> None:
        self._has_ended = True
        known = code if code in _ERROR_CODES else "server_error"
        self.response["output"] = self._output.so_far()
        self.response["status"] = "failed"
        self.response["error"] = {"code": known, "message": message}
        self._failure = {"code": code, "message": message, "param": None}

    def _tell_end(self) -> None:
        if self.response["status"] == "failed":
            self._events.add("error", **self._failure)
        self._events.add(f"response.{self.response['status']}", response=self.response)


def wants_logprobs(body: dict[str, Any]) -> bool:
    """Whether the client asked for its text's logprobs."""
    include = body.get("include")
    return isinstance(include, list) and LOGPROBS in include


def _begun(body: dict[str, Any], response_id: str, model: str, created_at: int) -> dict[str, Any]:
    """The Response object before its first item."""
    asked = {name: value for name in _ECHO if (value := body.get(name)) is not None}
    if asked.get("service_tier") == "auto":
        del asked["service_tier"]
    if isinstance(asked.get("text"), dict) and asked["text"].get("format") is None:
        asked["text"] = {**asked["text"], **_ECHO["text"]}
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **_ECHO,
        **asked,
    }


def _first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """Responses knows one answer per call."""
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return {}


def _usage(usage: object) -> dict[str, Any] | None:
    """Chat's usage as Responses counts it; None when it is not there."""
    if not isinstance(usage, dict):
        return None
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    thought = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) else 0
