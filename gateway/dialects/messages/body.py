"""A body of the Messages dialect as a chat body.

Pure. What has no chat form is left out: caching, server tools, thoughts of
earlier turns. What would change the meaning if it were left out (a PDF) is a
400. Fields that are not Anthropic's pass, so an engine's own can be set.
"""

from typing import Any

from gateway.dialects.messages.content import (
    assistant_message,
    known_blocks,
    system_text,
    user_messages,
)
from gateway.errors import bad_request

# Anthropic's fields without a chat form, and chat's that would change what comes back.
_DROPPED = frozenset(
    {
        "betas",
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "mcp_servers",
        "metadata",
        "n",
        "service_tier",
        "speed",
        "stream_options",
        "thread",
        "user_profile_id",
        "workspace_id",
    }
)
_TRANSLATED = frozenset(
    {
        "messages",
        "output_config",
        "output_format",
        "stop_sequences",
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)


def chat_body(body: dict[str, Any], *, is_strict: bool = True) -> dict[str, Any]:
    """What is asked of an engine that speaks chat. Raises ApiError 400 where it cannot be said.

    Not strict, for records of calls that another engine answers: content
    without a chat form then stays as it is inside its message.
    """
    messages = _messages(body, is_strict)
    chat: dict[str, Any] = {"model": body["model"], "messages": messages}
    tools, dropped = _tools(body.get("tools"))
    if tools:
        chat["tools"] = tools
        chat.update(_tool_choice(body.get("tool_choice"), dropped))
    if body.get("stop_sequences"):
        chat["stop"] = body["stop_sequences"]
    chat.update(_response_format(body))
    chat.update(_effort(body))
    if _is_prefilled(messages):
        chat["add_generation_prompt"] = False
        chat["continue_final_message"] = True
    unsaid = _DROPPED | _TRANSLATED
    chat.update({k: v for k, v in body.items() if v is not None and k not in unsaid})
    return chat


def count_tokens_body(body: dict[str, Any]) -> dict[str, Any]:
    """The body for the engine's `POST /tokenize`; its answer says `count`."""
    chat = chat_body(body)
    counted = {"model": chat["model"], "messages": chat["messages"], "add_generation_prompt": True}
    names = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    counted.update({name: chat[name] for name in names if name in chat})
    return counted


def _messages(body: dict[str, Any], is_strict: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    system = system_text(body.get("system"), "system")
    if system:
        found.append({"role": "system", "content": system})
    for number, message in enumerate(body["messages"]):
        param = f"messages.{number}.content"
        content = message.get("content")
        if message["role"] == "system":
            text = system_text(content, param)
            if text:
                found.append({"role": "system", "content": text})
        elif isinstance(content, str):
            found.append({"role": message["role"], "content": content})
        elif message["role"] == "assistant":
            found.append(assistant_message(known_blocks(content, param), param))
        else:
            found.extend(user_messages(known_blocks(content, param), param, is_strict))
    return found


def _is_prefilled(messages: list[dict[str, Any]]) -> bool:
    """Whether the answer is to go on from the beginning of it that the client wrote."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _tools(given: object) -> tuple[list[dict[str, Any]], set[str]]:
    """The tools as functions, and the names of those that only Anthropic's servers know."""
    if given is None:
        return [], set()
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise bad_request("`tools` must be a list of objects", "tools")
    functions, dropped = [], set()
    for number, tool in enumerate(given):
        schema = tool.get("input_schema")
        if schema is None and tool.get("type") not in (None, "custom"):
            dropped.add(str(tool.get("name")))
            continue
        if not isinstance(tool.get("name"), str) or not isinstance(schema, dict):
            raise bad_request("a tool has a `name` and an `input_schema`", f"tools.{number}")
        function: dict[str, Any] = {"name": tool["name"]}
        if isinstance(tool.get("description"), str):
            function["description"] = tool["description"]
        function["parameters"] = {"type": "object", **schema}
        if tool.get("strict") is not None:
            function["strict"] = tool["strict"]
        functions.append({"type": "function", "function": function})
    return functions, dropped


def _tool_choice(given: object, dropped: set[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise bad_request("`tool_choice` must be an object", "tool_choice")
    kind, name = given.get("type"), given.get("name")
    found: dict[str, Any] = {}
    if given.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    if kind == "tool":
        if not isinstance(name, str):
            raise bad_request("`tool_choice.name` must say which tool", "tool_choice.name")
        if name not in dropped:  # nobody here can run it: the answer is a text then
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in ("auto", "any", "none"):
        found["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise bad_request("`tool_choice.type` is auto, any, tool or none", "tool_choice.type")
    return found


def _response_format(body: dict[str, Any]) -> dict[str, Any]:
    given = _output_config(body).get("format") or body.get("output_format")
    if given is None:
        return {}
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict) or given.get("type") != "json_schema":
        raise bad_request("an output format is `json_schema` with a `schema`", "output_config")
    named = {"name": "output", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _effort(body: dict[str, Any]) -> dict[str, Any]:
    """How much to think. A budget in tokens needs an engine set up for it, so none is passed."""
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "disabled":
        return {"reasoning_effort": "none"}
    effort = _output_config(body).get("effort")
    return {"reasoning_effort": effort} if isinstance(effort, str) else {}


def _output_config(body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("output_config")
    return given if isinstance(given, dict) else {}
