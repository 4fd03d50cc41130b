"""Foreign providers, spoken to through litellm. The only file that knows that library.

litellm is optional, heavy (2 s of CPU to import) and does far more than is
wanted here: it prices, logs, retries, reads .env files, fetches images and takes
its address and key from any argument of those names. So it is imported when the
first `Provider` is made, told to leave all that alone, and given only parameters
listed here. A chat completion goes in and comes out in OpenAI's shape, without
token ids.
"""

import asyncio
import importlib.metadata
import logging
import os
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from gateway.errors import ApiError
from trajectories.errors import SettingsError
from trajectories.settings import OtherUpstreamSettings

# 1.82.7 and 1.82.8 were malicious uploads; before 1.83.7 there are known holes.
OLDEST = (1, 83, 10)
INSTALL = "pip install 'ratchet-gateway[gateway,providers]'"

# What a client may say. Never an address, a key, a header, a callback or a mock.
CHAT_PARAMETERS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "temperature",
        "thinking",
        "tool_choice",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
EMBEDDING_PARAMETERS = frozenset({"dimensions", "encoding_format", "input", "user"})
# litellm acts on tools of other types itself, such as those of an MCP server.
_TOOL_TYPES = frozenset({"function", "custom"})
# And it imports half of its proxy to look for them; this spares that.
_NO_MCP = {"_skip_mcp_handler": True}
_ABOUT_TOOLS = frozenset({"tool_choice", "parallel_tool_calls"})

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else a price list is fetched at import
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",  # else the .env of the working directory is read
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",  # no address named in a prompt is opened from here
}

# What of an answer is OpenAI's; the rest is litellm's own bookkeeping.
_TOP = ("id", "object", "created", "model", "system_fingerprint", "service_tier", "usage")
_SPOKEN = (
    "role",
    "content",
    "refusal",
    "tool_calls",
    "function_call",
    "annotations",
    "audio",
    "images",
    "reasoning_content",
    "thinking_blocks",
)
# Statuses of a provider that mean the same to our client; 401 and 403 are about our key.
_PASSED = frozenset({400, 404, 413, 422, 429, 500, 502, 503, 504})
_KEY_LIKE = re.compile(
    r"""\b(?:[sprx]k-|gsk_|xai-|AIza|AKIA)[\w.*-]{6,}|(?<=key=)[^\s&"']+|(?<=Bearer )\S+"""
)
_LONGEST_MESSAGE = 500


class ProviderError(ApiError):
    """The provider did not answer, or with an error. Its message holds no key."""


class Provider:
    """One `[upstreams.NAME]` of kind litellm. Make it before the loop serves: it imports."""

    def __init__(self, upstream: OtherUpstreamSettings) -> None:
        """Raises SettingsError when litellm is not there or too old."""
        self._litellm = _load()
        self._provider = upstream.provider
        self._key = upstream.api_key
        self._fixed = {
            "api_base": upstream.url,
            "api_key": upstream.api_key,
            "max_retries": 0,
            "num_retries": 0,
            "no-log": True,
        }

    async def complete(self, body: dict[str, Any], model: str, timeout: float) -> dict[str, Any]:
        """The whole chat completion, within `timeout` seconds. Raises ProviderError."""
        with self._errors():
            async with asyncio.timeout(timeout):
                answer = await self._litellm.acompletion(
                    **chat_parameters(body), **self._call(model, timeout), **_NO_MCP
                )
            return completion_of(answer.model_dump(mode="json"))

    async def stream(
        self, body: dict[str, Any], model: str, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks, usage in the last; at most `timeout` seconds to the first and between two.

        Raises ProviderError. Close it (`aclose`) when the client hangs up: that
        closes the provider's connection.
        """
        with self._errors():
            async with asyncio.timeout(timeout):
                chunks = await self._litellm.acompletion(
                    stream=True,
                    stream_options={"include_usage": True},
                    **chat_parameters(body),
                    **self._call(model, timeout),
                    **_NO_MCP,
                )
        async with aclosing(chunks):
            while True:
                with self._errors():
                    async with asyncio.timeout(timeout):
                        chunk = await anext(chunks, None)
                if chunk is None:
                    return
                yield chunk_of(chunk.model_dump(mode="json"))

    async def embed(self, body: dict[str, Any], model: str, timeout: float) -> dict[str, Any]:
        """The list of embeddings, within `timeout` seconds. Raises ProviderError."""
        with self._errors():
            async with asyncio.timeout(timeout):
                answer = await self._litellm.aembedding(
                    **_listed(body, EMBEDDING_PARAMETERS), **self._call(model, timeout)
                )
            return embeddings_of(answer.model_dump(mode="json"))

    async def close(self) -> None:
        """Close litellm's connections, those of other providers of this process too."""
        await self._litellm.close_litellm_async_clients()

    def _call(self, model: str, timeout: float) -> dict[str, Any]:
        # Its own limit is the later one: what it raises then says less than a TimeoutError.
        limit = timeout + 1
        return {"model": f"{self._provider}/{model}", "timeout": limit, **self._fixed}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """litellm's errors, which are openai's, as ours."""
        try:
            yield
        except TimeoutError as error:
            raise _error(504, "the provider did not answer in time") from error
        except self._litellm.exceptions.openai.OpenAIError as error:
            # `from None`: its text and its chain may hold the key and the prompt.
            raise self._translated(error) from None

    def _translated(self, error: Any) -> ProviderError:
        exceptions = self._litellm.exceptions
        # In the middle of a stream the cause is wrapped.
        error = getattr(error, "original_exception", None) or error
        if isinstance(error, exceptions.Timeout):
            return _error(504, "the provider did not answer in time")
        status = int(getattr(error, "status_code", None) or 502)
        if isinstance(error, exceptions.APIConnectionError):
            return _error(502, "the provider cannot be reached, or broke off")
        if status in (401, 403):
            return _error(502, "the provider refuses the gateway's key", code="upstream_key")
        return _error(
            status if status in _PASSED else 502,
            scrubbed(str(getattr(error, "message", error)), self._key),
            code=str(getattr(error, "code", None) or "") or None,
            headers=_retry_headers(error),
        )


def chat_parameters(body: dict[str, Any]) -> dict[str, Any]:
    """What of a chat body is passed on; all else is dropped."""
    found = _listed(body, CHAT_PARAMETERS)
    named = body.get("tools")
    tools = [
        tool
        for tool in (named if isinstance(named, list) else ())
        if isinstance(tool, dict) and str(tool.get("type", "function")) in _TOOL_TYPES
    ]
    if tools:
        return {**found, "tools": tools}
    # A choice among no tools is an error with most providers.
    return {name: value for name, value in found.items() if name not in _ABOUT_TOOLS}


def completion_of(answer: dict[str, Any]) -> dict[str, Any]:
    """litellm's answer as OpenAI writes a chat completion."""
    return {**_top(answer), "choices": [_choice(entry, "message") for entry in answer["choices"]]}


def chunk_of(chunk: dict[str, Any]) -> dict[str, Any]:
    """litellm's chunk as OpenAI writes one: the one with the usage has no choices."""
    choices = [_choice(entry, "delta") for entry in chunk["choices"]]
    if chunk.get("usage"):
        choices = [one for one in choices if one["finish_reason"] or one["delta"]]
    return {**_top(chunk), "choices": choices}


def embeddings_of(answer: dict[str, Any]) -> dict[str, Any]:
    """litellm's answer as OpenAI writes a list of embeddings."""
    return {name: _without_nulls(answer[name]) for name in ("object", "data", "model", "usage")}


def scrubbed(text: str, key: str | None) -> str:
    """A provider's message, cut to a readable length, with nothing in it that looks like a key."""
    if key:
        text = text.replace(key, "***")
    return _KEY_LIKE.sub("***", text)[:_LONGEST_MESSAGE]


def check_version(version: str) -> None:
    """Raises SettingsError for a litellm that must not be imported."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SettingsError(
            f"litellm {version} is not safe to use: install {oldest} or later ({INSTALL})"
        )


def _load() -> Any:
    """litellm, made to mind its own business."""
    try:
        # Asked of the metadata: importing the wrong one is what must not happen.
        check_version(importlib.metadata.version("litellm"))
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingsError(f'an upstream of kind = "litellm" needs litellm: {INSTALL}') from error
    os.environ.update(_ENVIRONMENT)
    import litellm

    litellm.telemetry = False
    litellm.drop_params = True  # a parameter that a provider does not know is left out, no 400
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.redact_messages_in_exceptions = True
    litellm.disable_streaming_logging = True
    for name in ("callbacks", "success_callback", "failure_callback"):
        setattr(litellm, name, [])
    # They write prompts, or addresses with a key in them, at level INFO and at failures.
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("httpx", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return litellm


def _listed(body: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in names and value is not None}


def _top(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: _without_nulls(answer[name]) for name in _TOP if answer.get(name) is not None}


def _choice(entry: dict[str, Any], inner: str) -> dict[str, Any]:
    said = entry.get(inner) or {}
    kept = {name: _without_nulls(said[name]) for name in _SPOKEN if said.get(name) is not None}
    if inner == "message":
        kept.setdefault("content", None)
    return {
        "index": entry.get("index", 0),
        inner: kept,
        "logprobs": entry.get("logprobs"),
        "finish_reason": entry.get("finish_reason"),
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_nulls(inner)
            for name, inner in value.items()
            if inner is not None and name != "provider_specific_fields"
        }
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _retry_headers(error: Any) -> dict[str, str]:
    response = getattr(error, "response", None)
    headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", {})
    return {name: headers[name] for name in ("retry-after", "retry-after-ms") if name in headers}


def _error(
    status: int, message: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> ProviderError:
    usual = "upstream_timeout" if status == 504 else "upstream_error"
    error = ProviderError(status, code or usual, message, headers=headers)
    if status >= 500:
        error.headers.setdefault("retry-after", "1")
    return error
