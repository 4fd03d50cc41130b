"""The loop: wait until the engine is idle, take the next recorded prompt, ask for its siblings.

One call at a time, and each of them only while every engine has next to
nothing to do: users come first. A trajectory is claimed and a call is paid for
before it is asked, so that a process that is killed at any point leaves fewer
siblings and never asks twice, nor above the budget.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from threading import Event
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError

from trajectories.connection import connect
from trajectories.errors import RecordError, SettingsError
from trajectories.model import Trajectory, Transition
from trajectories.privacy.learning import personal_check
from trajectories.rollouts import Rollout
from trajectories.settings import Settings
from trajectories.store import Store, TrajectoryRef
from workers.siblings.asking import Answer, Asker, NoAnswer
from workers.siblings.engines import Engines
from workers.siblings.prompts import LEAST_ROOM, Prompt, Rules, prompt_to_answer
from workers.siblings.purse import Purse
from workers.siblings.replay import Message, continued, tokens_told

log = logging.getLogger(__name__)

MOST_PAUSE_SECONDS = 600.0
MOST_REFUSED = 3  # prompts in a row: then it is not for what they say
MOST_PASSED = 50_000  # trajectories that are remembered to be of no use


class Asks(Protocol):
    """Who is asked for an answer."""

    def ask(
        self, rollout: Rollout, like: Transition, messages: Sequence[Message], most_tokens: int
    ) -> Answer: ...


@dataclass(slots=True)
class Ended:
    """A sibling that has ended, and is closed once its calls have arrived."""

    ref: TrajectoryRef
    calls: int
    at: float = field(default_factory=time.time)


class SiblingWorker:
    """Asks for the siblings of one policy's trajectories."""

    def __init__(
        self,
        redis: Redis,
        settings: Settings,
        *,
        asks: Asks,
        is_idle: Callable[[], bool],
        context_length: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`settings` are this policy's (`Settings.for_policy`). Raises SettingsError."""
        self._store = Store(redis)
        self._settings = settings.siblings
        self._policy = settings.policy
        self._rules = Rules.of(settings, personal_check(settings))
        self._purse = Purse(redis, settings.policy, settings.siblings)
        self._asks = asks
        self._is_idle = is_idle
        self._context_length = context_length
        self._longest = self._rules.max_length  # tokens of prompt and answer
        self._window_seconds = settings.rewards.label_window_seconds
        self._failures = 0  # in a row
        self._asks_again_at = 0.0  # monotonic seconds
        self._passed: set[str] = set()  # looked at, and of no use
        self._ended: deque[Ended] = deque()

    def step(self, stop: Event) -> bool:
        """Close what has ended, and ask for the siblings of one prompt; whether there was one."""
        self._close_ended()
        if time.monotonic() < self._asks_again_at or not self._is_idle() or not self._has_room():
            return False
        prompt = self._next_prompt()
        if prompt is None:
            return False
        self._expand(prompt, stop)
        self._close_ended()
        return True

    def _has_room(self) -> bool:
        """Whether the day's budget has room for a call: else nothing is claimed."""
        reserved = self._purse.reserve(self._rules.max_length)
        if reserved is None:
            return False
        self._purse.give_back(reserved)
        return True

    def _next_prompt(self) -> Prompt | None:
        """Claim the oldest trajectory that will do, of those with a reward before the others."""
        # Where only a judge that compares would speak, nobody does until there is a group.
        offered = chain(
            self._store.without_siblings(self._policy, self._may_do),
            self._store.unjudged(self._rules.tenant, self._may_do),
        )
        for ref in offered:
            trajectory = self._read(ref)
            prompt = None if trajectory is None else prompt_to_answer(trajectory, self._rules)
            if prompt is None:
                self._passed.add(str(ref))
            elif self._store.claim_for_siblings(ref):
                return prompt
        return None

    def _may_do(self, ref: TrajectoryRef) -> bool:
        """Whether a trajectory is worth a look."""
        if len(self._passed) > MOST_PASSED:
            self._passed.clear()  # most of them are offered no more
        return self._rules.draws(ref.id) and str(ref) not in self._passed

    def _read(self, ref: TrajectoryRef) -> Trajectory | None:
        try:
            return self._store.trajectory(ref)
        except RecordError:
            log.warning("a trajectory cannot be read", extra={"trajectory": str(ref)})
            return None

    def _expand(self, prompt: Prompt, stop: Event) -> None:
        """Ask for each sibling in turn, as long as that is any use."""
        call = prompt.call
        read = self._context_length()
        most = self._rules.max_length
        self._longest = most if read is None else min(most, read)
        for number in range(self._settings.answers):
            if self._store.trajectory_of(call.tenant, call.id) is None:
                return  # it was forgotten meanwhile
            rollout = Rollout(call.tenant, call.id, number)
            try:
                calls = self._roll_out(rollout, prompt, stop)
            except NoAnswer as error:
                log.warning("no sibling: %s", error, extra={"transition": call.id})
                if error.is_unasked and not error.is_of_prompt and number == 0:
                    self._store.release_for_siblings(prompt.ref)
                self._pause(error)
                return
            self._failures = 0
            if calls:
                ref = TrajectoryRef(call.tenant, rollout.trajectory_id)
                self._ended.append(Ended(ref, calls))
            else:
                return

    def _pause(self, error: NoAnswer) -> None:
        """Whatever is wrong must not use up the prompts: wait, longer each time."""
        self._failures += 1
        if error.is_of_prompt and self._failures < MOST_REFUSED:
            return  # the next one may be answered
        seconds = self._settings.look_seconds * 2.0 ** min(self._failures, 16)
        self._asks_again_at = time.monotonic() + min(MOST_PAUSE_SECONDS, seconds)

    def _roll_out(self, rollout: Rollout, prompt: Prompt, stop: Event) -> int:
        """One sibling, to its end; how many calls it made. Raises NoAnswer before the first."""
        recorded, later = prompt.call, prompt.later
        messages: list[Message] = list(recorded.request["messages"])
        prompt_tokens, calls = len(recorded.prompt_token_ids), 0
        while calls < self._settings.max_calls and self._wait_for_idle(stop):
            room = self._longest - prompt_tokens
            reserved = self._purse.reserve(self._longest) if room >= LEAST_ROOM else None
            if reserved is None:
                break
            try:
                answer = self._asks.ask(rollout, prompt.call, messages, room)
            except NoAnswer as error:
                # Else whatever it cost stays reserved: nobody knows how far the engine got.
                if error.is_unasked:
                    self._purse.give_back(reserved)
                if not calls:
                    raise
                log.warning("a sibling ends early: %s", error, extra={"rollout": str(rollout)})
                break
            calls += 1
            self._purse.settle(reserved, answer.prompt_tokens + answer.answer_tokens)
            if calls == 1 and answer.prompt_tokens != prompt_tokens:
                log.warning(
                    "the engine reads a recorded prompt as %d tokens, which were %d: it has another"
                    " chat template or base now, and its answers are no siblings",
                    answer.prompt_tokens,
                    prompt_tokens,
                    extra={"transition": recorded.id},
                )
                return 0
            found = continued(messages, answer.message, recorded, later)
            if found is None:
                break
            messages, following = found
            # What it said itself is in the next prompt, and may be longer than what was recorded.
            own = answer.prompt_tokens + answer.answer_tokens + tokens_told(recorded, following)
            prompt_tokens = max(len(following.prompt_token_ids), own)
            recorded, later = following, later[later.index(following) + 1 :]
        return calls

    def _wait_for_idle(self, stop: Event) -> bool:
        """Wait until no engine is busy; False when the process is to stop."""
        while not stop.is_set():
            if self._is_idle():
                return True
            self._close_ended()
            stop.wait(self._settings.look_seconds)
        return False

    def _close_ended(self) -> None:
        """Close siblings whose calls have arrived; their label window closes all others."""
        for _ in range(len(self._ended)):
            ended = self._ended.popleft()
            if self._store.has_calls(ended.ref, ended.calls):
                self._store.close(ended.ref)
            elif time.time() < ended.at + self._window_seconds:
                self._ended.append(ended)


def run_sibling_worker(settings: Settings, stop: Event) -> None:
    """Ask for siblings until `stop` is set. Redis away is waited out. Raises SettingsError."""
    if not settings.siblings.enabled:
        raise SettingsError("siblings.enabled is false: set it where further answers are wanted")
    redis = connect(settings.redis)
    own = settings.siblings
    engines = Engines(settings.upstream.engines, own.busy_requests, key=settings.upstream.api_key)
    workers = []
    for name in own.policies or (settings.policy,):
        policy = settings.for_policy(name)
        worker = SiblingWorker(
            redis,
            policy,
            asks=Asker(settings, name),
            is_idle=engines.is_idle,
            context_length=engines.context_length,
        )
        workers.append(worker)
    is_well = True
    while not stop.is_set():
        try:
            has_worked = [worker.step(stop) for worker in workers]
            is_well = True
        except RedisError as error:
            if is_well:
                log.warning("Redis is away, waiting: %s", error)
            is_well, has_worked = False, []
        if not any(has_worked):
            stop.wait(own.look_seconds)
