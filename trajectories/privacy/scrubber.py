"""The scrub: what identifies people, replaced before a trajectory is archived or learned from.

`[privacy] scrub` names finders: those of `personal.py`, `presidio`, and whatever
packages register under the entry point group `ratchet.scrubbers` (a callable
from a text to its `Span`s). A finder that fails stops the scrub: what could not
be looked at is not passed on.

Each person's detail becomes `<EMAIL_1>`, `<PHONE_2>`: the same one through a
trajectory, so that a conversation stays readable, and another in the next, so
that nobody is followed from one to the other.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from trajectories.errors import ScrubError, SettingsError
from trajectories.model import Choice, Feedback, Reward, Trajectory, Transition
from trajectories.privacy.personal import FINDERS, Find, Span, may_hold_personal
from trajectories.privacy.users import pseudonym, rename_users

GROUP = "ratchet.scrubbers"
_PRESIDIO = "presidio"
_PLACEHOLDER = re.compile(r"<([A-Z][A-Z_]*)_([0-9]{1,6})>")
_NAMES = ("error", "session_id", "alternates", "task", "agent")
_SAID = ("value", "comment", "correction", "metadata")


class Scrubber:
    """Replaces what its finders find. Raises ScrubError when one of them fails."""

    def __init__(self, names: Iterable[str], *, user_key: bytes | None = None) -> None:
        """Raises SettingsError when there is no finder of one of these names.

        With a `user_key`, an id of a user that has to go is replaced by a hash that
        the key makes, so that `ratchet forget --user` still finds it.
        """
        self._user_key = user_key
        self.names = tuple(names)
        self._patterns = [FINDERS[name] for name in self.names if name in FINDERS]
        self._others = [_other(name) for name in self.names if name not in FINDERS]

    @property
    def is_on(self) -> bool:
        return bool(self.names)

    def scrub(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory without what identifies people, and without ids that spell it."""
        return self.scrub_all(trajectory)[0]

    def scrub_all(
        self,
        trajectory: Trajectory,
        votes: Sequence[Feedback] = (),
        superseded: Sequence[Transition] = (),
    ) -> tuple[Trajectory, tuple[Feedback, ...], tuple[Transition, ...]]:
        """A trajectory, the votes on it, and attempts that were replaced, under the same names."""
        if not self.is_on:
            return trajectory, tuple(votes), tuple(superseded)
        scrub = _Scrub(self.spans, self._user_key)
        transitions = tuple(scrub.transition(entry) for entry in trajectory.transitions)
        changed = {
            "transitions": transitions,
            "rewards": tuple(scrub.reward(entry) for entry in trajectory.rewards),
            **scrub.fields(trajectory, ("session_id", "task", "agent")),
        }
        said = tuple(vote.model_copy(update=scrub.fields(vote, _SAID)) for vote in votes)
        replaced = tuple(scrub.transition(entry) for entry in superseded)
        return trajectory.model_copy(update=changed), said, replaced

    def has_personal(self, transition: Transition) -> bool:
        """Whether the scrub would change what was asked or answered."""
        if not self.is_on:
            return False
        scrub = _Scrub(self.spans, self._user_key)
        asked = rename_users(transition.request, lambda user: "")
        texts = (asked, [choice.message for choice in transition.choices])
        return any(scrub.value(text) is not text for text in texts)

    def spans(self, text: str) -> list[Span]:
        """What is found in a text, in order; where two overlap all of both, named by the longer."""
        finders: list[Find] = [*self._others]
        if self._patterns and may_hold_personal(text):
            finders += self._patterns
        try:
            found = [span for find in finders for span in find(text)]
        except Exception as error:  # of a stranger's code: what it did not see must not pass
            raise ScrubError(
                f"a finder of [privacy] scrub failed: {type(error).__name__}"
            ) from error
        kept: list[Span] = []
        for span in sorted(found, key=lambda span: (span.start, -span.end)):
            if not kept or span.start >= kept[-1].end:
                kept.append(span)
            else:
                before = kept[-1]
                is_longer = span.end - span.start > before.end - before.start
                kind = span.kind if is_longer else before.kind
                kept[-1] = Span(before.start, max(before.end, span.end), kind)
        return kept


class _Scrub:
    """One trajectory's names for what was found in it."""

    def __init__(self, spans: Callable[[str], list[Span]], user_key: bytes | None) -> None:
        self._spans = spans
        self._user_key = user_key
        self._names: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._done: dict[str, str] = {}  # each message comes again in every later request

    def transition(self, transition: Transition) -> Transition:
        changes = self.fields(transition, _NAMES)
        named = rename_users(transition.request, self._user)  # no part of the prompt
        request = self.value(named)
        if request is not transition.request:
            changes["request"] = request
        if request is not named:
            changes["prompt_token_ids"] = ()
        choices = tuple(self._choice(choice) for choice in transition.choices)
        if any(new is not old for new, old in zip(choices, transition.choices, strict=True)):
            changes["choices"] = choices
        return transition.model_copy(update=changes) if changes else transition

    def reward(self, reward: Reward) -> Reward:
        changes = self.fields(reward, ("reason",))
        return reward.model_copy(update=changes) if changes else reward

    def fields(self, record: Any, names: Iterable[str]) -> dict[str, Any]:
        """The fields of a record that the scrub changes."""
        found = {name: getattr(record, name) for name in names}
        scrubbed = {name: self.value(value) for name, value in found.items()}
        return {name: value for name, value in scrubbed.items() if value is not found[name]}

    def value(self, value: Any) -> Any:
        """Parsed JSON, scrubbed: the very same object if nothing was found in it."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            pairs = [(self.value(key), self.value(entry)) for key, entry in value.items()]
            is_same = all(
                a is c and b is d for (a, b), (c, d) in zip(pairs, value.items(), strict=True)
            )
            return value if is_same else dict(pairs)
        if isinstance(value, list | tuple):
            entries = [self.value(entry) for entry in value]
            is_same = all(a is b for a, b in zip(entries, value, strict=True))
            return value if is_same else type(value)(entries)
        return value

    def _user(self, user: str) -> str:
        scrubbed = self._text(user)
        if scrubbed is user or self._user_key is None:
            return scrubbed
        return pseudonym(user, self._user_key)

    def _choice(self, choice: Choice) -> Choice:
        message = self.value(choice.message)
        if message is choice.message:
            return choice
        return choice.model_copy(update={"message": message, "token_ids": (), "logprobs": ()})

    def _text(self, text: str) -> str:
        done = self._done.get(text)
        if done is None:
            spans = self._spans(text)
            done = self._done[text] = self._replaced(text, spans) if spans else text
        return text if done == text else done

    def _replaced(self, text: str, spans: list[Span]) -> str:
        for kind, number in _PLACEHOLDER.findall(text):  # scrubbed before, in part
            self._counts[kind] = max(self._counts.get(kind, 0), int(number))
        pieces: list[str] = []
        end = 0
        for span in spans:
            pieces += (text[end : span.start], self._name(span.kind, text[span.start : span.end]))
            end = span.end
        return "".join((*pieces, text[end:]))

    def _name(self, kind: str, found: str) -> str:
        key = (kind, _plain(found))
        if key not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[key] = f"<{kind}_{self._counts[kind]}>"
        return self._names[key]


def _plain(found: str) -> str:
    """The same for two ways to write one number or address."""
    return "".join(found.lower().split()).replace("-", "")


def _other(name: str) -> Find:
    """A finder that is not one of ours. Raises SettingsError."""
    if name == _PRESIDIO:
        found: Find = import_module("trajectories.privacy.presidio").open_presidio()
        return found
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        names = ", ".join([*FINDERS, _PRESIDIO, *sorted(known)])
        raise SettingsError(f'privacy.scrub: there is no "{name}" (there are: {names})')
    loaded: Find = known[name].load()
    return loaded
