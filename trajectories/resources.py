"""Resources: what learning makes and the gateway uses. Today: adapters, and whole models.

A policy version is an integer; version 0 is the base model. An adapter is the
LoRA directory that realises a version, or a model directory is. All are
immutable: a version's name in the engine carries the hash of its weights, so
that a name can never come to mean other weights (vLLM's prefix cache is keyed
by name). A whole model has its name for us alone: the engine knows one.
"""

from enum import StrEnum
from typing import Any

from pydantic import Field

from trajectories.model import Record

BASE_WEIGHTS = "default"  # what vLLM calls the weights it was started with
MANIFEST = "manifest.json"
PROBE = "probe.json"


class VersionState(StrEnum):
    """The life of a policy version."""

    CANDIDATE = "candidate"  # published on disk, not proven
    CURRENT = "current"  # new trajectories go here
    DRAINING = "draining"  # running trajectories end here, new ones do not start
    RETIRED = "retired"  # no request may start here; unloaded once in-flight is 0
    UNLOADED = "unloaded"  # gone from the engine, its directory kept
    REJECTED = "rejected"  # failed a check; never served


# Which moves a version may make. Read by the registry, drawn in docs/architecture.md.
MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.CANDIDATE: frozenset({VersionState.CURRENT, VersionState.REJECTED}),
    VersionState.CURRENT: frozenset({VersionState.DRAINING}),
    VersionState.DRAINING: frozenset({VersionState.RETIRED, VersionState.CURRENT}),
    VersionState.RETIRED: frozenset({VersionState.UNLOADED, VersionState.CURRENT}),
    VersionState.UNLOADED: frozenset({VersionState.CURRENT}),
    VersionState.REJECTED: frozenset(),
}
ROUTABLE = frozenset({VersionState.CURRENT, VersionState.DRAINING})
LOADED = ROUTABLE | {VersionState.RETIRED}


class Kind(StrEnum):
    """What realises a policy version."""

    LORA = "lora"  # an adapter, under a name of its own in the engine
    FULL = "full"  # all of the model's weights; the engine's name for them stays the base's


class PolicyVersion(Record):
    """One line of the registry."""

    policy: str
    version: int
    model: str  # the name the engine serves it under
    state: VersionState
    kind: Kind = Kind.LORA  # of version 0: either
    path: str | None = None  # its directory; None for the base model, or once that was removed
    sha256: str | None = None  # of the weights file
    parent: int | None = None  # the version the training started from
    run_id: str | None = None
    created_at: float = 0.0
    promoted_at: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: str = ""  # why it was rejected or rolled back

    @property
    def weights_name(self) -> str:
        """What an engine calls its own weights while they are this version's."""
        return self.model if self.version else BASE_WEIGHTS


class Lineage(Record):
    """Everything that made an adapter: which trajectories, whose rewards, which settings."""

    run_id: str
    algorithm: str
    trajectory_ids: tuple[str, ...]
    reward_sources: dict[str, int]  # source -> how many rewards
    excluded: dict[str, int] = Field(default_factory=dict)  # reason -> trajectories left out
    config: dict[str, Any] = Field(default_factory=dict)


class AdapterManifest(Record):
    """Written last into a version's directory: a directory without one does not exist."""

    policy: str
    version: int
    base_model: str  # served name of the base model
    base_sha256: str  # of the base model's weights
    kind: Kind = Kind.LORA
    rank: int | None = None  # of an adapter, as are its modules
    target_modules: tuple[str, ...] = ()
    dtype: str | None = None  # of full weights
    tensors: dict[str, tuple[int, ...]]  # name -> shape
    files: dict[str, str]  # file name -> sha256
    parent: int | None
    created_at: float
    metrics: dict[str, float] = Field(default_factory=dict)
    lineage: Lineage


class Probe(Record):
    """Token sequences with the trainer's own logprobs, for comparison with what is served.

    `logprobs[i]` is of `token_ids[i]` given `prompt_token_ids + token_ids[:i]`,
    in nats, at temperature 1; `base_logprobs` is the same under the base model, or
    where all weights change under those before.
    """

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    base_logprobs: tuple[float, ...]


class ProbeSet(Record):
    """What `probe.json` holds, beside the weights it was computed from."""

    dtype: str
    probes: tuple[Probe, ...]
