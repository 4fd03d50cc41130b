"""Caps: nobody owns a round. Which labels are left out of it, and who gave the others. Pure.

One principal with 2 % of traffic who labels everything would hold a third of
all labels, because others hardly ever say a word. So a principal counts in at
most a share of the labelled trajectories of a round (`rewards.max_share_per_source`).
The labels above that are left out of the round, and what else was said of
their trajectories still counts. Which ones stay is decided by a hash: not the
oldest, and the same ones whenever the round is formed again.

Where few people say anything, nobody can have so small a share: the cap is then
twice an even one. Alone, a principal is not capped.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trajectories.model import Reward

EVEN_SHARES = 2.0  # how many even shares a principal may have where there are few


@dataclass(frozen=True, slots=True)
class Caps:
    """The rules. Names are those of `Reward.principal`."""

    share: float = 0.02  # of the labelled trajectories of a round, after capping
    least: int = 2  # labelled trajectories that anybody may have
    uncapped: frozenset[str] = frozenset()  # verifiers and judges of the operator's own
    ignored: frozenset[str] = frozenset()  # whose labels no round uses


class Labelled(Protocol):
    """A trajectory, or what is kept of one."""

    @property
    def tenant(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def rewards(self) -> Sequence[Reward]: ...


@dataclass(frozen=True, slots=True)
class Dropped:
    """Ids of the rewards that a round leaves out."""

    capped: frozenset[str] = frozenset()  # above somebody's share: another round may use them
    ignored: frozenset[str] = frozenset()  # of principals whose labels no round uses

    @property
    def ids(self) -> frozenset[str]:
        return self.capped | self.ignored


def dropped_labels(
    trajectories: Iterable[Labelled], caps: Caps, without: frozenset[str] = frozenset()
) -> Dropped:
    """Which labels a round of these trajectories leaves out; `without` some that it has not."""
    labels: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    ignored: set[str] = set()
    for trajectory in trajectories:
        for reward in trajectory.rewards:
            principal = reward.principal
            if reward.id in without:
                continue
            if principal in caps.ignored:
                ignored.add(reward.id)
            elif principal is not None:
                # One who says five things of one trajectory has labelled one trajectory.
                labels[trajectory.tenant, principal][trajectory.id].append(reward.id)
    free = {owner: owned for owner, owned in labels.items() if owner[1] in caps.uncapped}
    bound = {owner: owned for owner, owned in labels.items() if owner not in free}
    most = cap_of(
        [len(owned) for owned in bound.values()],
        share=caps.share,
        least=caps.least,
        others=len({name for owned in free.values() for name in owned}),
    )
    over = (
        reward
        for owned in bound.values()
        for name in sorted(owned, key=_draw)[most:]
        for reward in owned[name]
    )
    return Dropped(frozenset(over), frozenset(ignored))


def cap_of(counts: Sequence[int], *, share: float, least: int, others: int = 0) -> int:
    """The most labelled trajectories that one principal may have.

    It is the largest number c that is no more than `share` of what is left when
    all are capped at c, `others` included that nobody caps.

    >>> cap_of([500, *[1] * 98], share=0.02, least=2)
    2
    >>> cap_of([500, 20], share=0.02, least=2)
    500
    """
    if len(counts) < 2 or share >= 1:
        return max(counts, default=0)
    allowed = min(1.0, max(share, EVEN_SHARES / len(counts)))
    low, high = 0, max(counts)
    while low < high:
        middle = (low + high + 1) // 2
        left = sum(min(count, middle) for count in counts) + others
        if middle <= allowed * left + 1e-9:
            low = middle
        else:
            high = middle - 1
    return max(least, low)


def labellers(
    trajectories: Iterable[Labelled], dropped: frozenset[str] = frozenset()
) -> Mapping[str, int]:
    """Principal -> how many trajectories it labelled, without labels in `dropped`."""
    found: dict[str, set[str]] = defaultdict(set)
    for trajectory in trajectories:
        for reward in trajectory.rewards:
            principal = reward.principal
            if principal is not None and reward.id not in dropped:
                found[principal].add(f"{trajectory.tenant}/{trajectory.id}")
    return {principal: len(names) for principal, names in sorted(found.items())}


def _draw(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"caps").digest()
