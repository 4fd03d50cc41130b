"""The nouns: what is recorded, what is said of it, and what it was worth.

Records travel as JSON from the gateway's spool through a Redis stream to the
workers and the trainer. They are frozen: a later stage adds a new record, it
never edits one. OpenAI bodies stay plain dictionaries on purpose.
"""

import hashlib
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trajectories.errors import RecordError

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
RewardValue = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]


class Record(BaseModel):
    """Base of everything stored: frozen, and tolerant of fields a newer version added."""

    # Errors end up in logs: they name the field, and never quote what was in it.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @classmethod
    def from_json(cls, raw: bytes | str) -> Self:
        """Parse `raw`; raises RecordError when it is not such a record."""
        try:
            return cls.model_validate(orjson.loads(raw))
        except (orjson.JSONDecodeError, ValidationError) as error:
            raise RecordError(f"not a {cls.__name__}: {error}") from error

    def to_json(self) -> bytes:
        """Compact JSON; raises RecordError when a body holds what JSON cannot."""
        try:
            return orjson.dumps(self.model_dump(mode="json"))
        except (orjson.JSONEncodeError, ValueError) as error:
            raise RecordError(f"not JSON: {error}") from error


class Outcome(StrEnum):
    """How a call ended, as far as learning is concerned."""

    COMPLETE = "complete"  # the whole answer arrived and was sent
    INCOMPLETE = "incomplete"  # the upstream broke off
    DISCONNECTED = "client_disconnect"  # the client left before the end
    FAILED = "failed"  # the upstream answered with an error


class Sampling(Record):
    """The sampling parameters really used; None means the engine's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    is_constrained: bool = False  # a grammar (JSON schema, forced tool) masked tokens


class Choice(Record):
    """One answer of a call, with the engine's own token ids and their logprobs (nats)."""

    index: int = 0
    message: dict[str, Any] = Field(default_factory=dict)
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[FiniteFloat, ...] = ()

    @property
    def is_aligned(self) -> bool:
        """Whether every token has its logprob; what is not aligned is never trained on."""
        return 0 < len(self.token_ids) == len(self.logprobs)


class Transition(Record):
    """One recorded request and response, with tokens and versions."""

    id: str
    tenant: str = "default"
    trajectory_id: str
    session_id: str | None = None
    session_source: str = "new"
    alternates: tuple[str, ...] = ()  # sessions named besides, as `source:id`
    task: str | None = None
    agent: str | None = None
    span_id: str | None = None  # the client's span in its trace, 16 hex digits
    key: str | None = None  # id of the API key it came with
    gateway: str
    dialect: str = "chat"  # what the client spoke; `request` and `choices` are chat all the same
    upstream: str = "policy"  # who answered: the policy's engine, or a name in `[upstreams]`
    is_streamed: bool = False
    started_at: FiniteFloat  # unix seconds
    latency_seconds: FiniteFloat
    first_byte_seconds: FiniteFloat | None = None
    request: dict[str, Any]
    response_id: str | None = None
    request_id: str | None = None
    http_status: int = 200
    outcome: Outcome = Outcome.COMPLETE
    error: str | None = None
    policy: str | None = None  # None: a model that Ratchet does not train
    policy_version: int | None = None
    model: str  # the name the upstream was asked for
    prompt_version: int | None = None
    sampling: Sampling = Sampling()
    prompt_token_ids: tuple[int, ...] = ()
    choices: tuple[Choice, ...] = ()
    usage: dict[str, Any] | None = None
    attempt: int = 0  # the SDK's retry count
    is_trainable: bool = True  # False: the client opted out
    ask: float | None = None  # how likely it was that people are asked; None: nobody ever was
    is_asked: bool = False  # the answer said `x-ratchet-ask: 1`
    rollout: str | None = None  # we asked: the transition that this is a sibling of


class FeedbackSource(Record):
    """Who says it. `type` decides the priority: human > code > judge."""

    type: Literal["human", "code", "judge"] = "human"
    id: str = "default"


_NOT_SAID = {"received_at", "transition_id", "key", "reward"}


class Feedback(Record):
    """What a client posted, validated and translated to a reward value.

    Exactly one of `response_id`, `named` and `trajectory_id` is the target. `named`
    is `kind:value`, something a transition can be found by (`trajectories.names`);
    `step` makes a transition of a trajectory the target. Without an id of its own
    the target, the name and the source say which vote this is: a later one
    replaces it (`trajectories.standing`).
    """

    id: str
    identity: str  # equal for votes of which the last one counts
    tenant: str = "default"
    response_id: str | None = None
    named: str | None = None
    trajectory_id: str | None = None
    step: int | None = None  # the n-th transition; negative: from the end, as it was then
    choice: int | None = None  # which of several answers of that transition
    within: str | None = None  # the trajectory in which a transition was said to be
    transition_id: str | None = None  # filled in when it was found
    name: str = "reward"
    form: Literal["value", "reward", "thumb", "rating"] | None = None  # how the worth was said
    reward: RewardValue | None = None
    value: bool | FiniteFloat | str | None = None
    comment: str | None = None
    correction: Any = None
    source: FeedbackSource = FeedbackSource()
    key: str | None = None  # id of the API key it came with; the source is what the client says
    metadata: dict[str, Any] = Field(default_factory=dict)
    is_final: bool = False
    has_own_id: bool = False  # the client named it: the first body under that id counts
    received_at: FiniteFloat
    retracted_at: FiniteFloat | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        targets = (self.response_id, self.named, self.trajectory_id)
        if sum(target is not None for target in targets) != 1:
            raise ValueError("exactly one of response_id, named and trajectory_id is the target")
        return self

    @property
    def target(self) -> str:
        """The id that has to be known before this can be joined."""
        target = self.response_id or self.named or self.trajectory_id
        if target is None:
            raise RecordError(f"feedback {self.id} has no target")
        return target

    @property
    def digest(self) -> str:
        """Equal for equal bodies, whenever, by whose key and under which settings they came."""
        said = self.model_dump(mode="json", exclude=_NOT_SAID)
        if self.choice is None:  # as votes were digested before there were any on choices
            del said["choice"]
        if self.source.id == self.key:
            del said["source"]["id"]
        return hashlib.blake2b(orjson.dumps(said), digest_size=16).hexdigest()

    def erased(self, at: float) -> Self:
        """What is left of a vote that was taken back: what it was about, and when it came."""
        nothing: dict[str, Any] = {"reward": None, "value": None, "form": None}
        nothing |= {"comment": None, "correction": None, "metadata": {}, "retracted_at": at}
        return self.model_copy(update=nothing)


class Retraction(Record):
    """A client took its vote back."""

    feedback_id: str
    tenant: str = "default"
    received_at: FiniteFloat


class Reward(Record):
    """A named float from a source, on a transition (intermediate) or a trajectory (final).

    The id is derived from target, name, source and revision: computing it
    twice gives one reward.
    """

    id: str
    trajectory_id: str
    transition_id: str | None = None  # None: the reward is of the whole trajectory
    choice: int | None = None  # of several, the one it is of, where that was not the one taken
    name: str
    source: str  # "feedback:human", "air:unknown_tool", ...
    value: RewardValue
    reason: str = ""
    revision: int = 1
    feedback: str | None = None  # id of the vote it was made of

    @property
    def principal(self) -> str | None:
        """Who gave a label, by name or else by kind; None for what nobody said.

        >>> source = "feedback:human:ann"
        >>> Reward(id="r", trajectory_id="t", name="n", source=source, value=1).principal
        'ann'
        """
        kind, _, rest = self.source.partition(":")
        if kind != "feedback":
            return None
        spoken_as, _, name = rest.partition(":")
        return name or spoken_as


class Breakdown(Record):
    """How a final reward came about: it is `outcome` + `air`, clamped.

    `shares` is reward id -> its share in the outcome (they add up to 1). `left_out` is
    reward id -> why a vote did not count: "priority" (a better kind of source spoke of the
    same thing), "target" (the whole trajectory was voted on, or its parts by a better kind),
    "weight" (its name weighs nothing) or "source" (its kind of source never counts).
    """

    outcome: FiniteFloat | None = None  # None: nobody voted
    air: FiniteFloat | None = None  # weighted sum of the signals; None: none fired
    clamp: tuple[FiniteFloat, FiniteFloat] = (-1.0, 1.0)
    shares: dict[str, FiniteFloat] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


class Trajectory(Record):
    """The ordered transitions of one task, with what is known of their worth.

    `reward` is None while nothing was said and no signal fired: missing is
    missing, never 0.
    """

    id: str
    tenant: str = "default"
    session_id: str | None = None
    task: str | None = None
    agent: str | None = None
    policy: str | None = None
    rollout: str | None = None  # the transition that this is a sibling of (docs/siblings.md)
    started_at: float
    updated_at: float
    is_closed: bool = False
    closed_at: float | None = None  # unix seconds
    labels: Literal["pending", "closed", "late"] = "pending"  # trajectories/labels.py
    reward: RewardValue | None = None
    breakdown: Breakdown | None = None
    transitions: tuple[Transition, ...] = ()
    rewards: tuple[Reward, ...] = ()

    @property
    def policies(self) -> tuple[str, ...]:
        """Every policy that answered in it: each trainer takes the calls of its own."""
        return tuple(sorted({found for t in self.transitions if (found := t.policy)}))


Recorded = Transition | Feedback | Retraction

_KINDS: dict[bytes, type[Recorded]] = {b"t": Transition, b"f": Feedback, b"r": Retraction}
_BYTES = {record_type: kind for kind, record_type in _KINDS.items()}


def pack_record(record: Recorded) -> bytes:
    """The payload of the spool and of the stream: one kind byte, then JSON."""
    return _BYTES[type(record)] + record.to_json()


def unpack_record(payload: bytes) -> Recorded:
    """The inverse of `pack_record`; raises RecordError on anything else."""
    record_type = _KINDS.get(payload[:1])
    if record_type is None:
        raise RecordError(f"unknown record kind {payload[:1]!r}")
    return record_type.from_json(payload[1:])
