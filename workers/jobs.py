"""The reward job: one trajectory's rewards, computed anew from all that is known of it.

It carries a reference and nothing else, may run twice or on two workers at
once, and has one effect: `put_all_rewards` accepts only what was computed from the
current revision. RQ calls a function by its name, so what the function needs
(settings) is handed to this module once, by `worker.py`, before the first job.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from redis import Redis
from redis.exceptions import RedisError
from rq import get_current_job
from rq.job import Job
from rq.timeouts import BaseTimeoutException

from trajectories.account import account_of
from trajectories.composition import Composition, Outcome, compose
from trajectories.errors import RatchetError
from trajectories.labels import closing_time
from trajectories.model import Reward
from trajectories.queues import enqueue_scoring, reward_queue
from trajectories.settings import AgentSettings, RewardSettings
from trajectories.store import Scorable, Scored, Store, TrajectoryRef
from workers.rewards.air import AirRules, air_rewards, air_rules
from workers.rewards.feedback import feedback_rewards
from workers.verdicts.limits import longest_wait
from workers.verdicts.roster import Roster

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 20  # a trajectory that changes this often while it is scored is asked for again


class NotConfigured(RatchetError):
    """A reward job runs in a process that is no reward worker."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """How one process computes rewards: the settings, checked."""

    air: AirRules
    composition: Composition
    compositions: Mapping[str, Composition] = field(default_factory=dict)  # of agents that differ
    roster: Roster = field(default_factory=Roster)  # who is asked once it is closed
    windows: Mapping[str, float] = field(default_factory=dict)  # metric -> seconds it takes
    tenants: Mapping[str, str] = field(default_factory=dict)  # policy -> whom it learns from

    @classmethod
    def from_settings(
        cls,
        settings: RewardSettings,
        agents: Mapping[str, AgentSettings] | None = None,
        *,
        roster: Roster | None = None,
        tenants: Mapping[str, str] | None = None,
    ) -> Self:
        """Raises SettingsError when an `air` table names no signal or a value out of range."""
        return cls(
            air_rules(settings, agents),
            Composition.from_settings(settings),
            {
                name: Composition.from_settings(settings, agent)
                for name, agent in (agents or {}).items()
            },
            roster or Roster(),
            settings.windows,
            tenants or {},
        )

    def score(self, store: Store, ref: TrajectoryRef) -> None:
        """Compute and store the rewards of `ref`; again while it changes underneath."""
        for _ in range(MAX_ATTEMPTS):
            scorable = store.scorable(ref)
            if scorable is None:
                store.stop_scoring(ref)
                return
            if store.put_all_rewards([self.reckon(store, ref, scorable)])[0]:
                return
        raise RatchetError(f"trajectory {ref} changed {MAX_ATTEMPTS} times while it was scored")

    def compute(self, scorable: Scorable) -> tuple[list[Reward], Outcome]:
        """Rewards and final reward of a trajectory: a pure function of it, its votes and us."""
        trajectory = scorable.trajectory
        rewards = [
            *feedback_rewards(trajectory, scorable.feedback),
            *air_rewards(trajectory, self.air),
        ]
        composition = self.compositions.get(trajectory.agent or "", self.composition)
        return rewards, compose(rewards, composition)

    def reckon(self, store: Store, ref: TrajectoryRef, scorable: Scorable) -> Scored:
        """The rewards of a trajectory as they are put; asks for verdicts that are due."""
        verdicts_until = self.ask_verdicts(store, scorable)
        rewards, outcome = self.compute(scorable)
        account = account_of(
            scorable.trajectory,
            scorable.feedback,
            rewards,
            outcome,
            windows=self.windows,
            now=time.time(),
            verdicts=self.roster.sources,
            verdicts_until=verdicts_until,
            # The base model answers other tenants under the policy's name.
            foreign={policy for policy, tenant in self.tenants.items() if tenant != ref.tenant},
        )
        return Scored(
            ref,
            rewards,
            outcome.final,
            outcome.is_labelled,
            scorable.revision,
            outcome.breakdown,
            account,
        )

    def ask_verdicts(self, store: Store, scorable: Scorable) -> float:
        """Ask for what was not said yet of a closed trajectory's content.

        Returns until when (unix seconds) a round waits for it: counted from the
        closing, so that a judge that fails holds nothing for longer. Before its
        rewards are put: whoever dies in between is asked for both again.
        """
        trajectory = scorable.trajectory
        due = self.roster.due_for(trajectory) if trajectory.is_closed else []
        if not due:
            return 0.0
        ref = TrajectoryRef(trajectory.tenant, trajectory.id)
        states = store.verdict_states(ref)
        asked = {
            name
            for name in due
            if name in states and states[name].stamp == self.roster.stamp(name, trajectory)
        }
        store.ask_verdicts(ref, [name for name in due if name not in asked], time.time())
        limits = [
            longest_wait(self.roster.sources[name])
            for name in due
            if name not in asked or not states[name].is_over
        ]
        if not limits:
            return 0.0
        closed_at = closing_time(trajectory, scorable.feedback) or trajectory.updated_at
        return closed_at + max(limits)


_scorers: list[Scorer] = []


def use_scorer(scorer: Scorer) -> None:
    """Compute rewards with `scorer` in this process from now on."""
    _scorers[:] = [scorer]


def score_trajectory(trajectory_ref: str) -> None:
    """The job. Does nothing when the trajectory was scored since it was asked for."""
    scorer, store, _ = _at_work("score_trajectory")
    ref = TrajectoryRef.parse(trajectory_ref)
    if store.is_waiting_for_scoring(ref):
        scorer.score(store, ref)


def score_trajectories(*trajectory_refs: str) -> None:
    """The job for many, read at once. One that fails, or takes too long, gets a job of its own."""
    scorer, store, job = _at_work("score_trajectories")
    refs = store.still_waiting([TrajectoryRef.parse(name) for name in trajectory_refs])
    left = dict.fromkeys(refs)
    queue = reward_queue(job.connection)
    scored: list[Scored] = []
    try:
        for ref, scorable in zip(refs, store.scorables(refs), strict=True):
            if scorable is None:
                store.stop_scoring(ref)
                del left[ref]
                continue
            try:
                scored.append(scorer.reckon(store, ref, scorable))
            except (RedisError, BaseTimeoutException):
                raise
            except Exception:  # one trajectory must not stop the others
                log.exception("scoring failed, tried by itself", extra={"ref": str(ref)})
                enqueue_scoring(queue, str(ref))
                del left[ref]
        for one, is_put in zip(scored, store.put_all_rewards(scored), strict=True):
            if not is_put:  # it changed meanwhile
                scorer.score(store, one.ref)
            del left[one.ref]
    except RedisError:
        raise
    except Exception:
        log.exception("scoring many failed, each is tried by itself")
        for ref in left:
            enqueue_scoring(queue, str(ref))


def _at_work(name: str) -> tuple[Scorer, Store, Job]:
    job = get_current_job()
    if job is None or not _scorers:
        raise NotConfigured(f"{name} runs as a job of `python -m workers worker` only")
    if not _stores or _stores[0][0] is not job.connection:
        _stores[:] = [(job.connection, Store(job.connection))]
    return _scorers[0], _stores[0][1], job


_stores: list[tuple[Redis, Store]] = []  # it knows its dictionaries
