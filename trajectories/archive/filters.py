"""Which trajectories are wanted. Pure; asked of a manifest first and then of each record."""

from dataclasses import dataclass

from trajectories.archive.manifest import Manifest
from trajectories.archive.record import Head


@dataclass(frozen=True, slots=True)
class Filters:
    """All that is set has to hold. Times are unix seconds: `since` <= start < `until`."""

    tenant: str | None = None
    agent: str | None = None
    task: str | None = None
    policy: str | None = None
    version: int | None = None
    min_version: int | None = None  # of any answer in it
    source: str | None = None  # of a reward; `feedback` is any of `feedback:...`
    min_reward: float | None = None
    max_reward: float | None = None
    since: float | None = None
    until: float | None = None
    is_labelled: bool = False
    is_rewarded: bool = False

    @property
    def asks_reward(self) -> bool:
        """Whether a trajectory without a reward is out."""
        return self.is_rewarded or not (self.min_reward is self.max_reward is None)

    def accepts(self, head: Head) -> bool:
        """Whether the trajectory with this head is wanted."""
        reward, started_at = head["reward"], head["started_at"]
        if reward is None and self.asks_reward:
            return False
        if self.source is not None and not any(
            source == self.source or source.startswith(f"{self.source}:")
            for source in head["sources"]
        ):
            return False
        return (
            self.tenant in (None, head["tenant"])
            and (self.agent is None or self.agent in head["agents"])
            and (self.task is None or self.task in head["tasks"])
            and (self.policy is None or self.policy in head["policies"])
            and (self.version is None or self.version in head["versions"])
            and (self.min_version is None or max(head["versions"], default=-1) >= self.min_version)
            and (self.min_reward is None or reward >= self.min_reward)
            and (self.max_reward is None or reward <= self.max_reward)
            and (self.since is None or started_at >= self.since)
            and (self.until is None or started_at < self.until)
            and (head["is_labelled"] or not self.is_labelled)
        )

    def may_accept(self, manifest: Manifest) -> bool:
        """Whether a segment can hold anything wanted."""
        lowest, highest = manifest.min_reward, manifest.max_reward
        if self.asks_reward and (lowest is None or highest is None):
            return False
        return (
            self.tenant in (None, manifest.tenant)
            and (self.since is None or manifest.started_to >= self.since)
            and (self.until is None or manifest.started_from < self.until)
            and (self.min_reward is None or highest is None or highest >= self.min_reward)
            and (self.max_reward is None or lowest is None or lowest <= self.max_reward)
        )
