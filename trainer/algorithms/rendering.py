"""Corrections as token ids: the one place where text becomes tokens, by the model's own template.

What somebody says an answer should have been was sampled by nobody, so there
are no ids of it in the log. The prompt's ids stay the logged ones; the template
is only asked what the assistant's message looks like after them. No torch of
its own.
"""

from typing import Any

import orjson

from trainer.batch.samples import Correction, Sample

_SEEN_AGAIN = 4  # tokens before the answer that have to be rendered as they were logged


class Rendering:
    """Renders corrections for one model."""

    def __init__(self, tokenizer: Any, model: Any, most_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._most_tokens = most_tokens  # of prompt and answer
        self._ends = end_tokens(tokenizer, model)
        self.reason = ""  # why the last one was left out

    def tokens_of(self, sample: Sample) -> tuple[int, ...] | None:
        """The ids of a sample's correction, the end token included; None where it will not do."""
        assert sample.correction is not None
        try:
            asked, whole = self._texts(sample.correction)
        except Exception as error:  # a template raises what it likes at what it does not know
            self.reason = f"the chat template does not take it: {error}"
            return None
        if not whole.startswith(asked):
            self.reason = "the chat template writes the prompt otherwise when an answer follows"
            return None
        before = self._ids(asked)[-_SEEN_AGAIN:]
        if tuple(before) != sample.prompt_token_ids[-len(before) :]:
            self.reason = "the chat template ends the prompt otherwise than the engine did"
            return None
        tokens = self._ids(whole[len(asked) :].rstrip("\n"))
        end = next((at for at, token in enumerate(tokens) if token in self._ends), None)
        tokens = tokens if end is None else tokens[: end + 1]
        if not tokens or len(sample.prompt_token_ids) + len(tokens) > self._most_tokens:
            self.reason = "it is empty, or longer than trainer.max_length"
            return None
        return tuple(tokens)

    def _texts(self, correction: Correction) -> tuple[str, str]:
        """The prompt, and the prompt with the answer."""
        messages = [with_arguments(message) for message in correction.messages]
        answer = with_arguments(correction.answer)
        shared = {"tools": correction.tools or None, "tokenize": False, **correction.template}
        render = self._tokenizer.apply_chat_template
        asked = render(messages, add_generation_prompt=True, **shared)
        return asked, render([*messages, answer], add_generation_prompt=False, **shared)

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    """The tokens that end an answer of this model."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*several, tokenizer.eos_token_id) if token is not None)


def with_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls have their arguments as objects, as vLLM hands them on."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_parsed(call) for call in calls]}


def _parsed(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except (orjson.JSONDecodeError, TypeError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
