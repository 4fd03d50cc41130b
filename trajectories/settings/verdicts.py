"""`[judges]`, `[webhooks]`, `[custom]`: who gives a verdict on a closed trajectory."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from trajectories.settings.section import Section


class VerdictSettings(Section):
    """What all that give verdicts have in common."""

    agents: tuple[str, ...] = Field((), description="Agents it applies to; empty: all")
    share: float = Field(1.0, ge=0, le=1, description="Share of the trajectories it looks at")
    version: str = Field("1", description="Another one: what it said before is asked for anew")
    timeout_seconds: float = Field(60, gt=0, le=600, description="Limit of one call")
    attempts: int = Field(3, ge=1, le=20, description="Tries before there is no verdict")


class JudgeSettings(VerdictSettings):
    """A language model that judges, asked through the gateway or anywhere else."""

    kind: Literal["pointwise", "relative", "next_state"] = Field(
        "pointwise",
        description="pointwise: one trajectory; relative: several of one task, compared;"
        " next_state: each answer, by what was said next",
    )
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="An OpenAI-compatible server, without /v1; unset: this gateway",
    )
    model: str = Field(description="The model to ask; of the gateway: any alias or route")
    api_key: str | None = Field(
        None, description="The key it asks for; unset, of this gateway: gateway.api_key"
    )
    api_key_env: str | None = Field(
        None, description="The environment variable that holds the key, instead of `api_key`"
    )
    rubric: str | None = Field(None, description="What makes an answer good; unset: a general one")
    rubric_file: Path | None = Field(None, description="A text file with the rubric, instead")
    reward: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Reward name; unset: the judge's"
    )
    votes: int = Field(1, ge=1, le=15, description="Calls for one verdict, an odd number: median")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Unset: 0, with several votes 0.7"
    )
    max_tokens: int = Field(1024, ge=16, description="Limit of one reply")
    output: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="The `response_format` to ask with; refused: without one"
    )
    reasons: bool = Field(
        True, description="Have it write a reason before the score; off: cheaper, and worse"
    )
    max_characters: int = Field(
        24_000, ge=500, description="So much of a trajectory is shown, its start and its end"
    )
    calls_per_day: int | None = Field(1000, ge=1, description="Budget of a tenant and UTC day")
    tokens_per_day: int | None = Field(
        None, ge=1, description="The same in prompt and reply tokens; unset: no limit"
    )
    cache_days: float = Field(
        7, ge=0, description="The same content is not judged twice within this; 0: always anew"
    )
    group_size: int = Field(8, ge=2, le=32, description="relative: trajectories of one call")
    group_seconds: float = Field(
        3600, gt=0, description="relative: wait this long for the group to fill; then two will do"
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.votes % 2 == 0:
            raise ValueError("votes is an odd number, so that there is a middle one")
        if self.rubric is not None and self.rubric_file is not None:
            raise ValueError("rubric and rubric_file are two ways to say one thing: keep one")
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("api_key and api_key_env are two ways to say one thing: keep one")
        return self


class WebhookSettings(VerdictSettings):
    """A server of yours that is sent closed trajectories and answers with rewards."""

    url: str = Field(pattern=r"^https?://", description="Where trajectories are posted")
    secret: str | None = Field(
        None, description="Signs each call, `whsec_` and base64, or any text; unset: `secret_env`"
    )
    secret_env: str | None = Field(
        None, description="The environment variable that holds the secret"
    )

    @model_validator(mode="after")
    def _has_a_secret(self) -> Self:
        if (self.secret is None) == (self.secret_env is None):
            raise ValueError("set secret or secret_env: calls are signed")
        return self


class CustomSettings(VerdictSettings):
    """A Python function of an installed package, by its entry point in `ratchet.rewards`."""

    entry_point: str | None = Field(
        None, description="Name in the group `ratchet.rewards`; unset: this section's"
    )
