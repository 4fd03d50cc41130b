"""`[policies.NAME]`: an adapter of its own for some agents, for a tenant, or for a name."""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from trajectories.settings.section import Section
from trajectories.settings.trainer import TrainerSettings

Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
# Key of [trainer] -> what all policies share, for which it is.
SHARED = {
    "base_model_path": "base model",
    "dtype": "base model",
    "metrics_host": "port in a trainer",
    "metrics_port": "port in a trainer",
}


class PolicySettings(Section):
    """A policy beside the default one: whose calls it answers, and how it learns from them."""

    tenant: Tenant | None = Field(
        None, description="Whose calls it answers and learns from; unset: policy_tenant"
    )
    agents: tuple[str, ...] = Field(
        (), description="The agents that it is for; none: all of the tenant that have no other"
    )
    aliases: tuple[str, ...] = Field(
        (), description="Model names that mean this policy, whichever agent of the tenant asks"
    )
    trainer: dict[str, Any] = Field(
        {},
        description="Keys of [trainer] that differ for it; not base_model_path, dtype, metrics_*",
    )


def trainer_for(name: str, shared: TrainerSettings, own: PolicySettings) -> TrainerSettings:
    """`[trainer]` with what is different for a policy. Raises ValueError, naming the key."""
    where = f"policies.{name}.trainer"
    if fixed := sorted(SHARED.keys() & own.trainer.keys()):
        raise ValueError(
            f"{where}.{fixed[0]}: all policies share one {SHARED[fixed[0]]}: set it in [trainer]"
        )
    try:
        return TrainerSettings.model_validate({**shared.model_dump(), **own.trainer})
    except ValidationError as error:
        lines = [
            f"{where}.{'.'.join(str(part) for part in issue['loc'])}: {issue['msg']}"
            for issue in error.errors()
        ]
        raise ValueError("; ".join(lines)) from error


def check_policies(
    policies: dict[str, PolicySettings], *, default: str, tenant: str, taken: set[str]
) -> None:
    """Raise ValueError unless each of `policies` is for something that no other is for.

    `default` is the policy for the rest of `tenant`; `taken` are model names that mean
    something already.
    """
    whose: dict[tuple[str, str | None], str] = {(tenant, None): default}
    named: dict[str, str] = {}
    for name, policy in policies.items():
        if name == default:
            raise ValueError(f'policies.{name}: that is the default policy\'s name ("policy")')
        own = policy.tenant or tenant
        if not (policy.agents or policy.aliases or own != tenant):
            raise ValueError(
                f"policies.{name} is for nothing that is not {default}'s: name agents, aliases or"
                " another tenant"
            )
        for alias in policy.aliases:
            if alias == "*" or alias in taken:
                raise ValueError(f'policies.{name}.aliases: "{alias}" means something else already')
            if alias in named:
                raise ValueError(f'policies.{name}.aliases: "{alias}" is {named[alias]}\'s')
            named[alias] = name
        for agent in policy.agents or ((None,) if own != tenant else ()):
            if other := whose.get((own, agent)):
                who = f'agent "{agent}"' if agent else "all agents"
                raise ValueError(f'policies.{name}: {who} of tenant "{own}" is for {other} already')
            whose[own, agent] = name
