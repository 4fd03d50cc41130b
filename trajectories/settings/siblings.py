"""`[siblings]`: further answers to recorded prompts, asked for while the engine is idle."""

from typing import Literal, Self

from pydantic import Field, model_validator

from trajectories.rollouts import MOST_ANSWERS
from trajectories.settings.section import Section


class SiblingSettings(Section):
    """Further answers to recorded prompts, asked for when the engine is idle."""

    enabled: bool = Field(False, description="`ratchet up` starts the process that asks")
    policies: tuple[str, ...] = Field((), description="Policies that answer; none: the default one")
    agents: tuple[str, ...] = Field((), description="Agents whose prompts are taken; none: all")
    answers: int = Field(
        4, ge=1, le=MOST_ANSWERS, description="Further answers to a prompt: siblings of the first"
    )
    share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the trajectories with a reward, or to be judged, that get siblings",
    )
    call: Literal["last", "first"] = Field(
        "last", description="Which call of a trajectory is asked anew"
    )
    max_calls: int = Field(
        8,
        ge=1,
        description="Longest sibling, in calls: it goes on where it calls the same tools with the"
        " same arguments as was recorded, by the recorded results",
    )
    answers_per_day: int | None = Field(
        1000, ge=1, description="Budget of a policy and UTC day in calls; unset: no limit"
    )
    tokens_per_day: int | None = Field(
        1_000_000, ge=1, description="The same in prompt and answer tokens; unset: no limit"
    )
    busy_requests: int = Field(
        1,
        ge=1,
        description="Nothing is asked while an engine has so many requests that run or wait",
    )
    look_seconds: float = Field(
        5, gt=0, description="Pause between two looks at a busy engine or an empty log"
    )
    timeout_seconds: float = Field(120, gt=0, le=600, description="Limit of one call")
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="The gateway, without /v1; unset: gateway.host and gateway.port",
    )
    api_key: str | None = Field(
        None, description="A key with the scopes inference and rollout; unset: gateway.api_key"
    )
    api_key_env: str | None = Field(
        None, description="The environment variable that holds the key, instead of `api_key`"
    )

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env are two ways to say one thing: keep one")
        return self
