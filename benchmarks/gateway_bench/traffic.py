"""What the clients send: one realistic request for each scenario, as bytes.

The head is the OpenAI SDK's; the body is a short chat of about 1 KB. Each
`########` becomes a running number in the load client, so that no two requests
are alike: a gateway that recognises conversations must do it anew each time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NUMBER = "########"
STREAM_EVENTS = 51  # of the upstream's stream, [DONE] not counted

_SYSTEM = (
    "You are the support assistant of a small software company. Answer briefly and kindly, in plain"
    " words, and never promise what the documents below do not say. Invoices are sent on the first"
    " working day of a month. Refunds are possible within thirty days. A licence may be moved to"
    " another machine twice a year, and a person answers the telephone from nine until five. Ask"
    " for a customer's number before you look at an account, and hand over to a person when you"
    " are asked to."
)
_FIRST = "Hello, I am customer ######## and I cannot find last month's invoice. Where would it be?"
_ANSWER = (
    "You will find it under Account, then Invoices. It was sent to the address of your account on"
    " the first working day of the month."
)
_SECOND = "Thank you. And if I wanted my money back for order ########, what would I have to do?"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of traffic. `pace_us` lies between two events of a stream, 0: all at once."""

    name: str
    is_stream: bool
    pace_us: int = 0
    hold_us: int = 0


def scenario_named(name: str, pace_us: int) -> Scenario:
    """One of "json", "burst" and "paced"."""
    return Scenario(name, name != "json", pace_us if name == "paced" else 0)


def body(scenario: Scenario, model: str) -> dict[str, Any]:
    """The chat request; what the upstream shall do stands in the system prompt."""
    wish = f" [pace_us={scenario.pace_us} hold_us={scenario.hold_us}]" if scenario.is_stream else ""
    content: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": _SYSTEM + wish},
            {"role": "user", "content": _FIRST},
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": _SECOND},
        ],
        "model": model,
        "max_tokens": 256,
        "temperature": 0.7,
    }
    if scenario.is_stream:
        content["stream"] = True
    return content


def request(
    scenario: Scenario, *, model: str, api_key: str, headers: Mapping[str, str] | None = None
) -> bytes:
    """The whole HTTP/1.1 request, as the Python SDK writes it."""
    content = json.dumps(body(scenario, model), separators=(",", ":")).encode()
    fields = {
        "Host": "127.0.0.1",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "User-Agent": "OpenAI/Python 2.8.1",
        "X-Stainless-Lang": "python",
        "X-Stainless-Package-Version": "2.8.1",
        "X-Stainless-OS": "Linux",
        "X-Stainless-Arch": "x64",
        "X-Stainless-Runtime": "CPython",
        "X-Stainless-Runtime-Version": "3.11.7",
        "Authorization": f"Bearer {api_key}",
        "X-Stainless-Async": "false",
        "x-stainless-retry-count": "0",
        "x-stainless-read-timeout": "600",
        **(headers or {}),
        "Content-Length": str(len(content)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + content
