"""Asking the gateway for a sibling, as a client that says what it is."""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trajectories.errors import RatchetError, SettingsError
from trajectories.ids import ID_PATTERN
from trajectories.model import Transition
from trajectories.rollouts import HEADER, Rollout
from trajectories.settings import PolicySettings, Settings
from workers.siblings.replay import Message
from workers.verdicts.assembly import gateway_url
from workers.verdicts.opinions import NoVerdict
from workers.verdicts.outgoing import post

# What is the client's own way of being answered, and would make every sibling the same.
_LEFT_OUT = frozenset(
    {"stream", "stream_options", "n", "seed", "logprobs", "top_logprobs", "return_token_ids"}
)
_LIMITS = ("max_completion_tokens", "max_tokens")
_ANY = "*"
_OF_PROMPT = frozenset({400, 413, 422})
_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror)


class NoAnswer(RatchetError):
    """A sibling could not be had.

    `is_unasked`: no engine has seen it, so it cost nothing. `is_of_prompt`: what was asked
    is refused, and not who asks.
    """

    def __init__(self, message: str, *, is_unasked: bool = False, is_of_prompt: bool = False):
        super().__init__(message)
        self.is_unasked = is_unasked
        self.is_of_prompt = is_of_prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and how long prompt and answer were (tokens)."""

    message: Message
    prompt_tokens: int
    answer_tokens: int


class Asker:
    """One policy, asked through the gateway."""

    def __init__(self, settings: Settings, policy: str) -> None:
        """Raises SettingsError when the key that a variable should hold is not there."""
        own = settings.siblings
        if own.api_key_env is not None and not own.api_key:
            raise SettingsError(f"siblings.api_key_env: the variable {own.api_key_env} is not set")
        url = own.url or gateway_url(settings)
        self._policy = policy
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._key = own.api_key or settings.gateway.api_key
        self._seconds = own.timeout_seconds
        self._alias = alias_of(settings, policy)
        self._elsewhere = agents_elsewhere(settings, policy)

    def ask(
        self, rollout: Rollout, like: Transition, messages: Sequence[Message], most_tokens: int
    ) -> Answer:
        """One answer to `messages`, sampled as `like` was. Raises NoAnswer."""
        body = body_of(like.request, messages, most_tokens)
        if self._alias is not None:
            body["model"] = self._alias
        headers = {"content-type": "application/json", HEADER: str(rollout)}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        if like.task is not None:
            headers["x-task-id"] = like.task
        # By itself a sibling does not tell a name that was read from what a team tells itself.
        agent = like.agent or ""
        if ID_PATTERN.fullmatch(agent) and agent not in self._elsewhere:
            headers["x-agent-id"] = agent
        try:
            reply = post(self._url, json.dumps(body).encode(), headers, self._seconds)
        except NoVerdict as error:
            is_unasked = isinstance(error.__cause__, _NOT_CONNECTED)
            raise NoAnswer(str(error), is_unasked=is_unasked) from error
        if reply.status != 200:
            raise NoAnswer(
                f"the gateway answered {reply.status}{_reason(reply.body)}",
                is_unasked=400 <= reply.status < 500,
                is_of_prompt=reply.status in _OF_PROMPT,
            )
        who = reply.headers.get("x-ratchet-policy", "nobody")
        if who.partition("@")[0] != self._policy:
            raise NoAnswer(f"{who} answered in the place of {self._policy}")
        return read_answer(reply.body)


def alias_of(settings: Settings, policy: str) -> str | None:
    """A model name that means `policy` and nobody else; None: that of the recorded request.

    The gateway asks the policy's own engine alone, whatever fallbacks a route of that name has.
    """
    own = settings.policies.get(policy)
    named = (*(own.aliases if own else ()), *settings.gateway.aliases)
    return next((name for name in named if name != _ANY), None)


def agents_elsewhere(settings: Settings, policy: str) -> frozenset[str]:
    """Agents by whose name another policy of the tenant would answer."""
    if settings.policies.get(policy, PolicySettings()).aliases:
        return frozenset()  # who is asked for by such a name answers, whichever agent asks
    tenants = settings.tenants_of_policies()
    return frozenset(
        agent
        for name, other in settings.policies.items()
        if name != policy and tenants[name] == tenants[policy]
        for agent in other.agents
    )


def body_of(request: dict[str, Any], messages: Sequence[Message], most_tokens: int) -> Any:
    """A recorded request, asked anew: whole, once, and with no more tokens than can be learned."""
    body = {name: value for name, value in request.items() if name not in _LEFT_OUT}
    body["messages"] = list(messages)
    said = [body[name] for name in _LIMITS if isinstance(body.get(name), int)]
    name = next((name for name in _LIMITS if name in body), _LIMITS[-1])
    body[name] = min([most_tokens, *said])
    return body


def read_answer(raw: bytes) -> Answer:
    """The answer in a chat completion. Raises NoAnswer for anything else."""
    try:
        said = json.loads(raw)
        message, usage = said["choices"][0]["message"], said["usage"]
        counts = usage["prompt_tokens"], usage["completion_tokens"]
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer("the gateway answered no chat completion") from error
    if not isinstance(message, dict) or not all(type(count) is int for count in counts):
        raise NoAnswer("the gateway answered no chat completion")
    return Answer(message, *counts)


def _reason(raw: bytes) -> str:
    """What an error says, as far as it is ours: it quotes nothing that was asked."""
    try:
        return f": {json.loads(raw)['error']['code']}"
    except (ValueError, LookupError, TypeError):
        return ""
