"""What differs when each process holds a share of the weights: FSDP and ZeRO-3.

A sharded parameter is put together by all processes at once, so every rank has
to come here, in the same order. Adam's moments stay where they are: a sharded
round begins with fresh ones.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers


def whole(parameter: Any) -> torch.Tensor:
    """The parameter with all its shares, in main memory."""
    if hasattr(parameter, "full_tensor"):  # FSDP2: a DTensor
        parameter = parameter.full_tensor()
    elif hasattr(parameter, "ds_id"):  # ZeRO-3
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()
    tensor: torch.Tensor = parameter.detach().cpu()
    return tensor


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """Everything that was trained, whole, by the model's own names."""
    return {
        name: whole(parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


class AtStart(transformers.TrainerCallback):  # type: ignore[misc]
    """Does something with the model once it is sharded, before the first step of a round.

    Not when a round goes on from a checkpoint: it has been done by then, and the
    weights are no longer the parent's.
    """

    def __init__(self, look: Callable[[Any], None]) -> None:
        self._look = look

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        if state.global_step == 0:
            self._look(model)
