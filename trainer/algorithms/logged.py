"""TRL's GRPO trainer over the log: forward passes, accumulation and devices are its own.

It never generates. A micro-batch is read from LoggedRows, the loss is loss.py's,
and each optimizer step is held against the budgets before its update. The
overridden methods are private: trl is pinned to 1.16, and a test holds their
signatures.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.grpo_trainer import add_fused_lm_head

from trainer.algorithms.budgets import Ledger, StepSums
from trainer.algorithms.loss import Answers, Objective, Size, k3, policy_loss, span_sums
from trainer.algorithms.rows import EMPTY, LoggedRows
from trainer.algorithms.tensors import labels_of, tensors_of
from trainer.batch.merging import Row, Span
from trainer.batch.order import RowOrder, Shape
from trainer.policy import RoundRefused

SUMS = ("tokens", "idle", "entropy", "known", "kl_to_parent", "answers", "kl_to_base")
LARGEST_RISE = 1.0  # nats: a token that became likelier still counts for no more in a KL
LEAST_ROWS = 2  # TRL refuses one; the second may be the empty one


def with_logprobs(model: Any) -> Any:
    """The model, able to give logprobs without its logits, as TRL makes the policy so."""
    add_fused_lm_head(model)
    return model


class LoggedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains on LoggedRows; its dataset are their numbers, and one more, of an empty row."""

    rows: LoggedRows
    objective = Objective()
    ledger: Ledger
    base: Any = None  # where the policy is a whole model
    shape: Shape  # of a step
    free_share = 1.0  # of the tokens said under a grammar
    notes: tuple[str, ...] = ()  # what the run should say of the round
    _buffered_inputs: list[dict[str, Tensor]] | None
    _sums: Tensor | None = None  # SUMS of the optimizer step, then successes and rises by task

    def _get_train_sampler(self, dataset: Any = None) -> RowOrder:
        return RowOrder(
            max(len(self.rows), LEAST_ROWS),
            self.shape,
            chunk=self.shape.micro * self.shape.passes,
            repeat=self.shape.passes,
            seed=self.args.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        """The next micro-batch; read from the log where TRL would have generated."""
        place = self._step % self.shape.passes
        if place == 0 or self._buffered_inputs is None:  # None: resumed
            self._buffered_inputs = self.micro_batches([entry["row"] for entry in generation_batch])
        found: dict[str, Tensor] = self._buffered_inputs[place]
        return found

    def micro_batches(self, numbers: Sequence[int]) -> list[dict[str, Tensor]]:
        """This process's rows of one optimizer step, those of like length together."""
        rows = [self.rows[at] if at < len(self.rows) else EMPTY for at in numbers]
        rows.sort(key=lambda row: len(row.token_ids))
        size = -(-len(rows) // self.shape.passes)
        lengths = [span.tokens for row in rows for span in row.spans]
        counts = torch.tensor([sum(lengths), sum(map(bool, lengths))], dtype=torch.float32)
        device = self.accelerator.device
        # Gradients are averaged over processes: a sum is divided by a process's share.
        shares = self.accelerator.reduce(counts.to(device), reduction="mean")
        found = []
        for start in range(0, len(rows), size):
            fill = self._tokenizer.pad_token_id
            batch = tensors_of(rows[start : start + size], fill=fill, device=device)
            if self.needs_base:
                with torch.no_grad():
                    batch["base"] = self.base_logprobs(batch)
            found.append({**batch, "tokens_of_step": shares[0], "spans_of_step": shares[1]})
        return found

    @property
    def needs_base(self) -> bool:
        return bool(self.objective.kl_to_base or self.ledger.limits.kl_to_base)

    def base_logprobs(self, batch: dict[str, Tensor]) -> Tensor:
        """Logprobs under the base model: the policy without its adapter, or a model beside it."""
        if self.base is not None:
            with self.autocast_smart_context_manager():
                return self.logprobs(self.base, batch)[0]
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self.logprobs(self.model, batch)[0]

    def logprobs(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logprob and entropy of every token with loss, (B, T - 1): the first is never one."""
        outputs = model(input_ids=batch["input_ids"], labels=labels_of(batch), fused_lm_head=True)
        return outputs.log_probs, outputs.entropy

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        policy_bt, entropy_bt = self.logprobs(model, inputs)
        of_targets = {name: inputs[name][:, 1:] for name in ("spans", "behaviour", "parent")}
        answers = Answers(
            policy_bt,
            of_targets["behaviour"],
            self._unguarded(inputs)[:, 1:],
            of_targets["spans"],
            of_targets["parent"],
            inputs.get("base"),
        )
        longest = float(self.rows.longest_answer)
        size = Size(inputs["tokens_of_step"], inputs["spans_of_step"], longest)
        loss, is_idle_bt = policy_loss(self.objective, answers, size)
        self._note(answers, inputs["tasks"][:, 1:], is_idle_bt, entropy_bt)
        return loss

    def _unguarded(self, inputs: dict[str, Tensor]) -> Tensor:
        """Advantages, without those that would unlearn a task further."""
        advantages_bt = inputs["advantages"]
        if not self.ledger.closed:
            return advantages_bt
        closed = torch.tensor(sorted(self.ledger.closed), device=advantages_bt.device)
        is_closed_bt = torch.isin(inputs["tasks"], closed) & (advantages_bt < 0)
        return advantages_bt.masked_fill(is_closed_bt, 0.0)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _note(
        self, answers: Answers, tasks_bt: Tensor, is_idle_bt: Tensor, entropy_bt: Tensor
    ) -> None:
        """Add what a micro-batch shows to the sums of its step."""
        spans_bt, policy_bt = answers.spans_bt, answers.policy_bt
        mask_bt = spans_bt > 0
        assert answers.proximal_bt is not None
        is_known_bt = mask_bt & ~answers.proximal_bt.isnan()
        parent_bt = torch.where(is_known_bt, answers.proximal_bt, policy_bt)
        # Of answers that the parent sampled: so it is the parent that k3 takes for the policy.
        kl_bt = k3(parent_bt, policy_bt, is_known_bt, largest=LARGEST_RISE)
        is_success_bt = is_known_bt & (answers.advantages_bt > 0)
        lengths_bs = span_sums(mask_bt.to(policy_bt.dtype), spans_bt)
        share_bt = 1 / lengths_bs.gather(1, spans_bt).clamp(min=1.0)  # sums to 1 over an answer
        known, successes = share_bt * is_known_bt, share_bt * is_success_bt
        rises_bt = (policy_bt - parent_bt) * is_success_bt
        base_bt = answers.base_bt
        sums = [
            mask_bt.sum(),
            is_idle_bt.sum(),
            (entropy_bt * mask_bt).sum(),
            known.sum(),
            kl_bt.sum(),
            (share_bt * mask_bt).sum(),
            k3(policy_bt, base_bt, mask_bt).sum() if base_bt is not None else mask_bt.sum() * 0.0,
        ]
        of_tasks = torch.zeros(2, len(self.ledger.tasks), device=policy_bt.device)
        for row, values_bt in enumerate((successes, rises_bt)):
            of_tasks[row].scatter_add_(0, tasks_bt.flatten(), values_bt.float().flatten())
        found = torch.cat([torch.stack([value.float() for value in sums]), of_tasks.flatten()])
        self._sums = found if self._sums is None else self._sums + found

    def close_step(self) -> None:
        """Hold a whole optimizer step, before its update, against the budgets."""
        assert self._sums is not None
        found = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums = None
        sums = dict(zip(SUMS, found, strict=False))
        middle = len(SUMS) + len(self.ledger.tasks)
        self.ledger.add(
            StepSums(
                sums["known"],
                sums["kl_to_parent"],
                sums["answers"],
                sums["kl_to_base"],
                found[len(SUMS) : middle],
                found[middle:],
            )
        )
        metrics = self._metrics["train"]
        tokens, answers = max(sums["tokens"], 1.0), max(sums["answers"], 1.0)
        metrics["clip_ratio/region_mean"].append(sums["idle"] / tokens)
        metrics["entropy"].append(sums["entropy"] / tokens)
        metrics["tokens_saved_share"].append(self.rows.saving.share)
        metrics["guarded_tasks"].append(float(len(self.ledger.closed)))
        if sums["known"]:
            metrics["kl_to_parent"].append(sums["kl_to_parent"] / sums["known"])
        if self.rows.has_constrained:
            metrics["free_tokens_share"].append(self.free_share)
        if self.needs_base:
            metrics["kl"].append(sums["kl_to_base"] / answers)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def compute_parent(self, tokens: int, is_wanted: Callable[[int], bool] | None = None) -> None:
        """The parent's logprobs of every answer: the policy's, before its first step.

        `tokens` is how many fit one forward pass; `is_wanted` says of which samples, all if unset.
        """

        def wanted(row: Row) -> list[Span]:
            return [s for s in row.spans if is_wanted is None or is_wanted(s.sample)]

        self.model.eval()
        order = [at for at, row in enumerate(self.rows.rows) if wanted(row)]
        order.sort(key=lambda at: self.rows.rows[at].length)
        size = max(1, tokens // max(self.rows.longest, 1))
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            fill, device = self._tokenizer.pad_token_id, self.accelerator.device
            batch = tensors_of([self.rows[at] for at in numbers], fill=fill, device=device)
            logprobs_bt = self.logprobs(self.model, batch)[0].float().cpu()
            for place, at in enumerate(numbers):
                for span in wanted(self.rows.rows[at]):
                    values = logprobs_bt[place, span.start - 1 : span.stop - 1]
                    self.rows.computed[span.sample] = array("f", values.tolist())
        self.model.train()
        self.free_share = self.rows.free_share()


class Budgets(TrainerCallback):  # type: ignore[misc]
    """Drops the update that would go beyond a budget, and ends the round there."""

    def __init__(self) -> None:
        self.trainer: LoggedGRPOTrainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if kept := state.stateful_callbacks.get(type(self).__name__):
            self.trainer.ledger.restore(kept)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was spent goes into the next checkpoint."""
        state.stateful_callbacks[type(self).__name__] = self.trainer.ledger.state()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        trainer.close_step()
        excess = trainer.ledger.excess
        trainer.notes = trainer.ledger.notes
        if excess is None:
            return
        if state.global_step == 0 and trainer.ledger.is_base_used_up:
            raise RoundRefused(f"{excess}: nothing more can be learned from this base")
        for parameter in trainer.model.parameters():
            parameter.grad = None
        control.should_training_stop = True
        trainer.notes = (*trainer.notes, f"stopped after {state.global_step} steps: {excess}")
