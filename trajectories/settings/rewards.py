"""`[rewards]` and `[agents]`: what an answer is worth, and who learns from it."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from trajectories.settings.section import Section

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SourceType = Literal["human", "code", "judge"]
Priority = Literal["mean"] | tuple[SourceType, ...]


def _ordered(clamp: tuple[float, float]) -> tuple[float, float]:
    if not -1 <= clamp[0] < clamp[1] <= 1:
        raise ValueError("two numbers within [-1, 1], the lower one first")
    return clamp


Clamp = Annotated[tuple[float, float], AfterValidator(_ordered)]


class MetricSettings(Section):
    """`[rewards.metrics.NAME]`: what a value posted under that name is worth."""

    low: float | None = Field(None, allow_inf_nan=False, description="The number that means -1")
    high: float | None = Field(None, allow_inf_nan=False, description="The number that means 1")
    optimize: Literal["max", "min"] = Field("max", description="`min`: less is better")
    values: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(
        default_factory=dict, description="A string -> the reward it stands for"
    )
    window_seconds: float = Field(
        0,
        ge=0,
        le=518_400,
        description="How long after the last call it may come: until then no round uses a"
        " trajectory of which it was not said. Six days at most",
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("a range has two ends: set both low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high (optimize = min turns a range round)")
        return self


class RewardSettings(Section):
    """How signals and votes become one number."""

    label_window_seconds: float = Field(
        600, gt=0, description="A trajectory closes when nothing happened for this long"
    )
    air: dict[str, float] = Field(
        default_factory=dict, description="AIR signal -> reward, overriding the defaults; 0 is off"
    )
    slow_seconds: float = Field(
        0, ge=0, description="An answer that takes longer is `slow` to AIR; 0: none is"
    )
    costly_tokens: float = Field(
        0, ge=0, description="An answer of more tokens is `costly` to AIR; 0: none is"
    )
    air_weight: float = Field(
        1.0, ge=0, le=1, description="Weight of the sum of AIR rewards in the final reward"
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict, description="Reward name -> its weight in the outcome; unnamed: 1"
    )
    priority: Priority = Field(
        ("human", "code", "judge"),
        description='Kinds of source, best first; one left out never counts; "mean": all alike',
    )
    clamp: Clamp = Field((-1.0, 1.0), description="Limits of the final reward")
    metrics: dict[str, MetricSettings] = Field(
        default_factory=dict,
        description="Feedback name -> `low`, `high`, `optimize` (max or min) and `values` (string"
        " -> reward): what its values are worth",
    )
    satisfied_bonus: float = Field(
        0.2, ge=0, le=1, description="Added where `metadata.satisfied` is true (feedback.md)"
    )
    used_result_bonus: float = Field(
        0.1, ge=0, le=1, description="Added where `metadata.used_result` is true"
    )
    ask_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of trajectories, drawn at random, whose answers say `x-ratchet-ask: 1`",
    )
    ask_seed: str = Field(
        "",
        description="A secret that the draw depends on, the same in all gateways",
    )
    max_share_per_source: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Largest share of a round's labels from one feedback source; where few label,"
        " twice an even share",
    )
    min_labels_per_source: int = Field(
        2, ge=1, description="Labels of one source that a round takes in any case"
    )
    uncapped_sources: tuple[str, ...] = Field(
        (), description="Ids of sources that may label everything, such as a verifier of yours"
    )
    ignored_sources: tuple[str, ...] = Field(
        (), description="Ids of sources whose labels no round uses from now on"
    )

    @property
    def windows(self) -> dict[str, float]:
        """Metric -> how many seconds it may take, for those that take any."""
        return {
            name: own.window_seconds for name, own in self.metrics.items() if own.window_seconds
        }


class AgentSettings(Section):
    """What is different for one agent (the name its calls come under)."""

    train: bool = Field(True, description="Whether the policy learns from this agent's calls")
    weights: dict[str, Weight] = Field(
        default_factory=dict, description="Reward name -> weight, over those of [rewards]"
    )
    priority: Priority | None = Field(None, description="Instead of rewards.priority")
    air_weight: float | None = Field(None, ge=0, le=1, description="Instead of rewards.air_weight")
    clamp: Clamp | None = Field(None, description="Instead of rewards.clamp")
    air: dict[str, float] = Field(
        default_factory=dict, description="AIR signal -> reward for this agent's calls; 0 is off"
    )
    slow_seconds: float | None = Field(
        None, ge=0, description="As in [rewards], for this agent's calls; 0: none is slow"
    )
    costly_tokens: float | None = Field(
        None, ge=0, description="As in [rewards], for this agent's calls; 0: none is costly"
    )
