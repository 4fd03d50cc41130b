"""A trajectory as the signals read it: each turn once, with what came of it.

Pure. A trajectory of n calls carries each message up to n times; here each
tool result and each reply is looked up in an index that is built in one pass,
and what is parsed is parsed once. Turns of other agents in the same session
are not one's neighbours: their calls and their users are their own.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from trajectories.model import Outcome, Trajectory, Transition
from workers.rewards.speech import Reply, last_words, reply_in
from workers.rewards.turns import (
    ToolCall,
    ToolResult,
    answer_of,
    calls_of,
    messages_of,
    results_of,
    text_of,
    tools_of,
)

OFFERS_KEPT = 8  # different lists of tools in one trajectory
Entry = TypeVar("Entry")
_SPACES = re.compile(r"\s|\\[nrtf]")  # in JSON, too


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on an answer is an outlier; 0: never."""

    slow_seconds: float = 0.0
    costly_tokens: float = 0.0


class Turn:
    """One transition and what came before and after it in its trajectory."""

    def __init__(self, story: "Story", position: int, transition: Transition) -> None:
        self.story = story
        self.position = position
        self.transition = transition
        self.limits = Limits()
        self.rank = 0  # its place among the turns of its agent

    @property
    def request(self) -> dict[str, Any]:
        return self.transition.request

    @property
    def is_answered(self) -> bool:
        """Whether a whole answer arrived: one that broke off is not the model's fault."""
        return self.transition.outcome is Outcome.COMPLETE and bool(self.transition.choices)

    @property
    def finish_reason(self) -> str | None:
        choices = self.transition.choices
        return choices[0].finish_reason if choices else None

    @cached_property
    def messages(self) -> list[Any]:
        """What the request says, in order."""
        return messages_of(self.request)

    @property
    def news(self) -> list[Any]:
        """The messages that the turn before of the same agent did not have; all, where unsure."""
        before = self.story.of_agent[self.transition.agent][self.rank - 1] if self.rank else None
        size = len(before.messages) if before is not None else 0
        if before is None or not 0 < size <= len(self.messages):
            return self.messages
        is_longer = self.messages[size - 1] == before.messages[-1]
        return self.messages[size:] if is_longer else self.messages

    @cached_property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the answer."""
        return calls_of(self.transition)

    @cached_property
    def answer(self) -> str:
        """The text of the answer."""
        return answer_of(self.transition)

    @cached_property
    def offered(self) -> Mapping[str, dict[str, Any] | None]:
        """The tools of the request, by name; requests that offer the same share them."""
        return self.story.offered(self.request)

    @cached_property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """What each call asks for: equal for calls that ask for the same."""
        return tuple(call.key for call in self.calls)

    @cached_property
    def step(self) -> tuple[str, ...]:
        """What this turn does: its calls, whatever their spaces and capitals."""
        return tuple(
            sorted(_SPACES.sub("", f"{name} {asked}").casefold() for name, asked in self.keys)
        )

    def result_of(self, call: ToolCall) -> ToolResult | None:
        """What the application sent back for one of this turn's calls, if it did."""
        return self.story.result(call.id, self.position) if call.id else None

    @cached_property
    def aftermath(self) -> str | None:
        """What the next request of the same agent brought, for clients that write results as text.

        smolagents does: `Observation:` under the role `user`.
        """
        own = self.story.of_agent[self.transition.agent]
        if self.rank + 1 == len(own):
            return None
        news = [message for message in own[self.rank + 1].news if isinstance(message, dict)]
        told = [message for message in news if message.get("role") != "assistant"]
        return "\n".join(text_of(message.get("content")) for message in told)

    @cached_property
    def asked(self) -> str | None:
        """What the user said last before this answer."""
        return last_words(self.request)

    @cached_property
    def reply(self) -> Reply | None:
        """What was said to this answer, where a later request holds both."""
        return self.story.reply(self) if self.answer.strip() else None

    @cached_property
    def again(self) -> "Turn | None":
        """The next turn in which the very same was asked, once this answer was there."""
        members, place = self.story.alike(self)
        later = (members[number] for number in range(place + 1, len(members)))
        return next((turn for turn in later if is_after(turn, self)), None)

    @cached_property
    def before(self) -> "Turn | None":
        """The last turn of which this one asks the very same again."""
        members, place = self.story.alike(self)
        earlier = (members[number] for number in range(place - 1, -1, -1))
        return next((turn for turn in earlier if is_after(self, turn)), None)

    def last(self, count: int) -> "Sequence[Turn]":
        """The last `count` turns of the same agent up to this one, oldest first."""
        own = self.story.of_agent[self.transition.agent]
        return own[max(0, self.rank + 1 - count) : self.rank + 1]


class Story:
    """The turns of a trajectory, in order."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.is_closed = trajectory.is_closed
        self.turns = [
            Turn(self, position, transition)
            for position, transition in enumerate(trajectory.transitions)
        ]
        self.of_agent: dict[str | None, list[Turn]] = defaultdict(list)  # oldest first
        for turn in self.turns:
            turn.rank = len(self.of_agent[turn.transition.agent])
            self.of_agent[turn.transition.agent].append(turn)

        self._offers: list[tuple[Any, dict[str, dict[str, Any] | None]]] = []

    def offered(self, request: dict[str, Any]) -> Mapping[str, dict[str, Any] | None]:
        """The tools of a request, read once for all requests with the same ones."""
        tools = request.get("tools")
        for known, found in self._offers:
            if known == tools:
                return found
        found = tools_of(request)
        self._offers = [(tools, found), *self._offers[: OFFERS_KEPT - 1]]
        return found

    def result(self, call_id: str, position: int) -> ToolResult | None:
        """The first result that came for a call id after the turn at `position`.

        Some clients count their ids anew in every turn: so the place matters.
        """
        return next((result for _, result in _after(self._results.get(call_id), position)), None)

    def reply(self, turn: Turn) -> Reply | None:
        """The first reply to an answer: bound by the answer's text, which the client repeats."""
        agent = turn.transition.agent
        for answer in _as_sent_back(turn):
            for place, reply in _after(self._replies.get(answer), turn.position):
                if self.turns[place].transition.agent == agent:
                    return reply
        return None

    def alike(self, turn: Turn) -> tuple[Sequence[Turn], int]:
        """The turns whose requests say the same as this one's, and its place among them."""
        return self._alike.get(turn.position, ((turn,), 0))

    def called_before(self, turn: Turn, key: tuple[str, str]) -> tuple[Turn, ToolCall] | None:
        """The last call before `turn` by which its agent asked for the same."""
        return self._called_before.get((turn.position, *key))

    @cached_property
    def _called_before(self) -> Mapping[tuple[int, str, str], tuple[Turn, ToolCall]]:
        """Turn and what it asks for -> the call that asked for it before."""
        found: dict[tuple[int, str, str], tuple[Turn, ToolCall]] = {}
        last: dict[tuple[str | None, str, str], tuple[Turn, ToolCall]] = {}
        for turn in self.turns:
            agent = turn.transition.agent
            for key in turn.keys:
                if (agent, *key) in last:
                    found[turn.position, *key] = last[agent, *key]
            for call, key in zip(turn.calls, turn.keys, strict=True):
                last[agent, *key] = turn, call
        return found

    @cached_property
    def _results(self) -> Mapping[str, list[tuple[int, ToolResult]]]:
        """Call id -> its results and where each was seen first."""
        found: dict[str, list[tuple[int, ToolResult]]] = {}
        for place, turn in enumerate(self.turns):
            for result in results_of(turn.news):
                known = found.setdefault(result.call_id, [])
                if not known or known[-1][1] != result:
                    known.append((place, result))
        return found

    @cached_property
    def _replies(self) -> Mapping[str, list[tuple[int, Reply]]]:
        """Answer -> what users said to it, and where."""
        found: dict[str, list[tuple[int, Reply]]] = defaultdict(list)
        for place, turn in enumerate(self.turns):
            reply = reply_in(turn.request)
            if reply is not None:
                found[reply.answer].append((place, reply))
        return found

    @cached_property
    def _alike(self) -> Mapping[int, tuple[list[Turn], int]]:
        """Position -> turns with equal requests; what nothing equals is left out."""
        by_shape: dict[Any, list[list[Turn]]] = defaultdict(list)
        for turn in self.turns:
            if not turn.messages:
                continue
            last = str(turn.messages[-1])[-200:]
            sets = by_shape[turn.transition.agent, len(turn.messages), last]
            for members in sets:
                if members[0].messages == turn.messages:
                    members.append(turn)
                    break
            else:
                sets.append([turn])
        alike = [members for sets in by_shape.values() for members in sets if len(members) > 1]
        return {
            turn.position: (members, place)
            for members in alike
            for place, turn in enumerate(members)
        }


def _after(entries: list[tuple[int, Entry]] | None, position: int) -> Iterator[tuple[int, Entry]]:
    """What was seen after a position, first things first."""
    if entries is None:
        return iter(())
    start = bisect_right(entries, position, key=lambda entry: entry[0])
    return islice(entries, start, None)


def _as_sent_back(turn: Turn) -> list[str]:
    """How a client may write an answer: smolagents puts the stop sequence back."""
    answer, stop = turn.answer.strip(), turn.request.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return [answer, *(answer + end for end in stops if isinstance(end, str))]


def is_after(later: Turn, earlier: Turn) -> bool:
    """Whether one call began when the other's answer was there: not samples side by side."""
    return earlier.is_answered and seconds_between(earlier, later) >= 0


def seconds_between(earlier: Turn, later: Turn) -> float:
    """From the end of one answer to the next call; below 0 where they ran side by side."""
    first = earlier.transition
    return later.transition.started_at - first.started_at - first.latency_seconds
