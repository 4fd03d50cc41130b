"""`[rewards]` and `[agents]`: what an answer is worth, and who learns from it."""

from pydantic import Field

from trajectories.settings.section import Section


class RewardSettings(Section):
    """How signals and votes become one number."""

    label_window_seconds: float = Field(
        600, gt=0, description="A trajectory closes when nothing happened for this long"
    )
    air: dict[str, float] = Field(
        default_factory=dict, description="AIR signal -> reward, overriding the defaults; 0 is off"
    )
    air_weight: float = Field(
        1.0, ge=0, le=1, description="Weight of the sum of AIR rewards in the final reward"
    )
    max_share_per_source: float = Field(
        1.0, gt=0, le=1, description="Largest share of a round's labels from one feedback source"
    )


class AgentSettings(Section):
    """What is different for one agent (the name its calls come under)."""

    train: bool = Field(True, description="Whether the policy learns from this agent's calls")
