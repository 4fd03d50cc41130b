"""Ours: what each asks of the log, and where its trainer is made.

They come through the same door as everybody else's (pyproject.toml,
`ratchet.algorithms`). The modules with torch in them are imported when a
trainer is made, since the loop reads what is asked.
"""

from dataclasses import dataclass
from typing import Any

from trainer.advantages.advantage import advantages_of
from trainer.advantages.tracker import recall
from trainer.algorithms.protocol import Asks, Round
from trajectories.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Grpo:
    """Policy gradient with the recorded behaviour logprobs: better answers up, worse ones down."""

    name: str = "grpo"

    def asks(self, settings: TrainerSettings) -> Asks:
        return Asks(
            needs_ratio=True,
            # In four bits it is not quite the model that answered.
            takes_constrained=settings.quantization == "none",
            max_staleness=settings.max_staleness,
            is_shuffling=True,
        )

    def make_trainer(self, round_: Round) -> Any:
        from trainer.algorithms.grpo import make_grpo_trainer

        plan, settings = round_.plan, round_.settings
        values = advantages_of(
            round_.samples,
            settings,
            tracker=recall(plan.optimizer_path),
            version=plan.parent,
        )
        return make_grpo_trainer(
            round_.model,
            round_.tokenizer,
            samples=round_.samples,
            advantages=values,
            parent=round_.plan.parent,
            settings=settings,
            output=round_.output,
            optimizer=round_.optimizer,
            callbacks=list(round_.callbacks),
            load_base=round_.load_base,
        )


@dataclass(frozen=True, slots=True)
class Sft:
    """Likelihood of the successes; the bar that the others have to beat."""

    name: str = "sft"

    def asks(self, settings: TrainerSettings) -> Asks:
        return Asks(above=settings.sft_threshold, takes_windows=True)

    def make_trainer(self, round_: Round) -> Any:
        from trainer.algorithms.sft import make_sft_trainer

        return make_sft_trainer(
            round_.model,
            round_.tokenizer,
            samples=round_.samples,
            settings=round_.settings,
            output=round_.output,
            optimizer=round_.optimizer,
            callbacks=list(round_.callbacks),
        )


@dataclass(frozen=True, slots=True)
class Kto:
    """Good answers up and bad ones down, each by itself, held against the base model."""

    name: str = "kto"

    def asks(self, settings: TrainerSettings) -> Asks:
        return Asks(middle=settings.sft_threshold, takes_windows=True, is_for_one_process=True)

    def make_trainer(self, round_: Round) -> Any:
        from trainer.algorithms.kto import make_kto_trainer

        return make_kto_trainer(round_)


@dataclass(frozen=True, slots=True)
class Dpo:
    """Of two answers to one prompt the better one up; also what people wrote down instead."""

    name: str = "dpo"

    def asks(self, settings: TrainerSettings) -> Asks:
        return Asks(needs_pairs=True, with_corrections=True, is_for_one_process=True)

    def make_trainer(self, round_: Round) -> Any:
        from trainer.algorithms.dpo import make_dpo_trainer

        return make_dpo_trainer(round_)


GRPO = Grpo()
SFT = Sft()
KTO = Kto()
DPO = Dpo()
