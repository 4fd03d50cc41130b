"""Which call of a recorded trajectory is answered anew, if any. Pure."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from trajectories.agents import messages_of
from trajectories.model import Outcome, Trajectory, Transition
from trajectories.sampling import has_ratio
from trajectories.settings import Settings
from trajectories.store import TrajectoryRef

LEAST_ROOM = 16  # tokens, for an answer


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be asked anew, of one policy."""

    policy: str
    tenant: str
    share: float
    is_last: bool  # the last call of a trajectory that will do, else the first
    max_length: int  # tokens of prompt and answer that a round can learn from
    agents: frozenset[str] = frozenset()  # none: all
    agents_off: frozenset[str] = frozenset()
    is_personal: Callable[[Transition], bool] | None = None

    @classmethod
    def of(cls, settings: Settings, is_personal: Callable[[Transition], bool] | None) -> "Rules":
        """The rules for the policy that these settings are for (`Settings.for_policy`)."""
        own = settings.siblings
        return cls(
            policy=settings.policy,
            tenant=settings.policy_tenant,
            share=own.share,
            is_last=own.call == "last",
            max_length=settings.trainer.max_length,
            agents=frozenset(own.agents),
            agents_off=frozenset(name for name, one in settings.agents.items() if not one.train),
            is_personal=is_personal,
        )

    def draws(self, trajectory_id: str) -> bool:
        """Whether a trajectory is one of the share, whoever asks and whenever."""
        digest = hashlib.blake2b(trajectory_id.encode(), digest_size=6, person=b"siblings").digest()
        return int.from_bytes(digest) / 2**48 < self.share


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recorded call that is answered anew."""

    ref: TrajectoryRef
    call: Transition
    later: tuple[Transition, ...]  # the calls after it that a sibling may be told of


def prompt_to_answer(trajectory: Trajectory, rules: Rules) -> Prompt | None:
    """The call of `trajectory` that is answered anew, with those after it; None: there is none.

    A later prompt holds what earlier calls said, so of a trajectory with a call
    that opted out nothing is asked or told, nor from a call on that says who somebody is.
    """
    if trajectory.rollout is not None or not trajectory.is_closed:
        return None
    if trajectory.tenant != rules.tenant:
        return None
    steps = trajectory.transitions
    if any(not step.is_trainable or step.rollout is not None for step in steps):
        return None
    if rules.is_personal is not None:
        is_personal = rules.is_personal
        steps = tuple(takewhile(lambda step: not is_personal(step), steps))
    fit = [number for number, step in enumerate(steps) if _is_fit(step, rules)]
    if not fit:
        return None
    number = fit[-1 if rules.is_last else 0]
    ref = TrajectoryRef(trajectory.tenant, trajectory.id)
    return Prompt(ref, steps[number], steps[number + 1 :])


def _is_fit(transition: Transition, rules: Rules) -> bool:
    """Whether a round could learn from this call, and its prompt can be asked again."""
    agent = transition.agent
    is_meant = agent not in rules.agents_off and (not rules.agents or agent in rules.agents)
    return (
        is_meant
        and transition.policy == rules.policy
        and transition.policy_version is not None
        and transition.outcome is Outcome.COMPLETE
        and has_ratio(transition.sampling)
        # Without ids it was redacted: what is asked is not what is recorded.
        and 0 < len(transition.prompt_token_ids) <= rules.max_length - LEAST_ROOM
        and bool(transition.choices)
        and transition.choices[0].is_aligned
        and is_askable(transition.request)
        and bool(messages_of(transition))
    )


def is_askable(request: dict[str, Any]) -> bool:
    """Whether a recorded request is a chat that can be asked again as it stands."""
    messages = request.get("messages")
    return (
        isinstance(request.get("model"), str)
        and isinstance(messages, list)
        and all(isinstance(message, dict) for message in messages)
    )
