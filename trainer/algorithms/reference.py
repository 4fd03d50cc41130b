"""What a policy is held against: the base model, in every round. No torch of its own."""

from typing import Any

_COPY = "ref"  # how TRL calls the adapter that it makes of the current one


def anchor_to_base(trainer: Any) -> None:
    """Take away the copy of the adapter that TRL made for its reference.

    Without it TRL switches the adapter off for the reference, which then is the
    base model. With it each round would be anchored to the round before, and a
    hundred small steps are a long way; the copy would also be saved beside the
    adapter, and be in the way of a second trainer.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if _COPY in getattr(model, "peft_config", {}):
        model.delete_adapter(_COPY)
