"""What is equal in the transitions of one trajectory, kept once.

A conversation sends all its earlier messages with each call, and its prompt's
token ids go on from those of the call before. So messages and tools become
numbers in a list of bodies, and token ids begin with how many are those of the
transition before. `unpack(pack(x)) == x`, to the byte.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from trajectories.errors import RecordError
from trajectories.model import Transition

LISTS = ("messages", "tools", "input")  # of a request: each item is a body of its own
SHORTEST_PREFIX = 16  # token ids; a shorter one is not worth the words


class Bodies:
    """Values kept once; each has a number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[bytes, int] = {}

    def number(self, value: Any) -> int:
        """The number of `value`, which is new or equal, to the byte, to an earlier one."""
        text = orjson.dumps(value)
        number = self._numbers.setdefault(text, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


def pack(transitions: Iterable[Transition], bodies: Bodies) -> list[dict[str, Any]]:
    """Transitions as JSON values; what they share goes into `bodies`."""
    packed = []
    before: tuple[int, ...] = ()
    for transition in transitions:
        row = transition.model_dump(mode="json", exclude={"request", "prompt_token_ids"})
        request = dict(transition.request)
        lists = [name for name in LISTS if isinstance(request.get(name), list)]
        for name in lists:
            request[name] = [bodies.number(item) for item in request[name]]
        ids = transition.prompt_token_ids
        prefix = _shared(before, ids)
        row["request"], row["packed"] = request, lists
        row["prompt_token_ids"], row["prefix"] = ids[prefix:], prefix
        before = _whole(transition)
        packed.append(row)
    return packed


def unpack(rows: Iterable[dict[str, Any]], bodies: Sequence[Any]) -> list[Transition]:
    """The inverse of `pack`. Raises RecordError on rows that it did not make."""
    transitions = []
    before: tuple[int, ...] = ()
    for row in rows:
        try:
            request = dict(row["request"])
            for name in row["packed"]:
                request[name] = [bodies[number] for number in request[name]]
            ids = before[: row["prefix"]] + tuple(row["prompt_token_ids"])
            fields = {**row, "request": request, "prompt_token_ids": ids}
            transition = Transition.model_validate(fields)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RecordError(f"not a packed transition: {error!r}") from error
        before = _whole(transition)
        transitions.append(transition)
    return transitions


def _whole(transition: Transition) -> tuple[int, ...]:
    """The token ids that the next prompt is likely to begin with."""
    answer = transition.choices[0].token_ids if transition.choices else ()
    return transition.prompt_token_ids + answer


def _shared(before: tuple[int, ...], ids: tuple[int, ...]) -> int:
    """How many ids the two have in common from their start."""
    length = min(len(before), len(ids))
    if before[:length] != ids[:length]:
        low, high = 0, length
        while high - low > 1:  # equal up to `low`, different before `high`
            middle = (low + high) // 2
            low, high = (middle, high) if before[:middle] == ids[:middle] else (low, middle)
        length = low
    return length if length >= SHORTEST_PREFIX else 0
