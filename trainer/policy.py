"""The policy under training: base model plus LoRA, or a whole model (full.py), and its logprobs.

A round goes on from the current version's adapter; the first one starts from
the base with fresh matrices. lm_head never gets LoRA: vLLM would refuse it.
"""

import shutil
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer import ranks
from trainer.advantages.tracker import TRACKER, Tracker
from trainer.batch.samples import Sample
from trainer.delivery.gate import CONFIG
from trainer.durable import sync_directory, sync_tree
from trainer.full import load_frozen, load_whole, save_whole
from trainer.quantization import as_served, check_quantization, load_quantised
from trainer.runs import OPTIMIZER, UNFINISHED, Plan
from trainer.sharding import trained_weights, whole
from trajectories.errors import RatchetError, SettingsError
from trajectories.resources import PROBE, Probe, ProbeSet
from trajectories.settings import TrainerSettings

BETAS = (0.9, 0.99)
PROBES = 4
PROBE_TOKENS = 512


class TrainingError(RatchetError):
    """A round cannot go on, and trying it again would not help."""


class RoundRefused(TrainingError):
    """Settings, base or machine make no round possible: its rows are as good as before."""


def device_for(settings: TrainerSettings) -> str:
    """The device that the setting means on this machine."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_policy(plan: Plan) -> tuple[Any, Any]:
    """The trainable model, of PEFT unless all of it is trained, and its tokenizer."""
    settings = plan.trainer
    if settings.weights == "full":
        model = load_whole(plan.base_path, plan.parent_path, plan.optimizer_path)
        model = model if ranks.is_sharded() else model.to(device_for(settings))
        return model, AutoTokenizer.from_pretrained(plan.base_path, padding_side="left")
    if "lm_head" in settings.target_modules:
        raise RoundRefused("trainer.target_modules names lm_head, which vLLM cannot serve")
    base = load_base(plan)
    tokenizer = AutoTokenizer.from_pretrained(plan.base_path, padding_side="left")
    if plan.parent_path is None:
        return get_peft_model(base, fresh_config(settings)), tokenizer
    check_parent(Path(plan.parent_path), settings)
    return PeftModel.from_pretrained(base, plan.parent_path, is_trainable=True), tokenizer


def load_base(plan: Plan) -> Any:
    """The base model on its device. Raises RoundRefused when four bits cannot be had here."""
    settings, device = plan.trainer, device_for(plan.trainer)
    dtype = getattr(torch, settings.dtype)
    if settings.quantization == "none":
        base = AutoModelForCausalLM.from_pretrained(plan.base_path, dtype=dtype)
        # Else each process gets its share, once all have come together.
        return base if ranks.is_sharded() else base.to(device)
    if ranks.is_sharded():
        raise RoundRefused(
            "trainer.quantization is 4bit, and trainer.launch deals out the base's weights to"
            " several processes: have it in four bits on each of them (ddp), or in full on all"
        )
    try:
        check_quantization(device)
    except SettingsError as error:
        raise RoundRefused(str(error)) from error
    return load_quantised(plan.base_path, dtype, device)


def fresh_config(settings: TrainerSettings) -> LoraConfig:
    """LoRA as the settings want it."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_parent(parent: Path, settings: TrainerSettings) -> None:
    """An adapter's shape cannot change from one version to the next."""
    config = orjson.loads((parent / CONFIG).read_bytes())
    has = (config["r"], config["lora_alpha"], sorted(config["target_modules"]))
    wants = (settings.rank, settings.alpha, sorted(settings.target_modules))
    if has != wants:
        raise RoundRefused(
            f"the current adapter {parent.name} has rank, alpha and modules {has}, the settings"
            f" say {wants}: set them back, or roll back to version 0 first"
        )


def make_optimizer(model: Any, settings: TrainerSettings, state_path: str | None) -> Any:
    """AdamW over what is trained, with the moments of the round before where there are any."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=BETAS, weight_decay=0.0
    )
    if state_path is not None and not ranks.is_sharded():
        state = torch.load(state_path, map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate
    return optimizer


def constant_schedule(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def logprobs_of(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Logprobs of `tokens` after `prompt` in nats at temperature 1; one row, no padding."""
    was_training = model.training
    model.eval()
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, logits_to_keep=len(tokens) + 1).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    model.train(was_training)
    return [float(value) for value in chosen]


def gaps(model: Any, samples: Iterable[Sample]) -> list[float]:
    """|trainer's logprob - recorded logprob| of every token.

    A grammar only ever adds to what is recorded: of what was said under one, that counts as none.
    """
    return [
        max(ours - recorded, 0.0) if sample.is_constrained else abs(ours - recorded)
        for sample in samples
        for ours, recorded in zip(
            logprobs_of(model, sample.prompt_token_ids, sample.token_ids),
            sample.logprobs,
            strict=True,
        )
    ]


def shortest(samples: Iterable[Sample], count: int = PROBES) -> list[Sample]:
    """The shortest rows, the first of them first; no others are held while they are looked for."""
    return nsmallest(count, samples, key=lambda s: len(s.prompt_token_ids) + len(s.token_ids))


def load_reference(plan: Plan) -> Any:
    """The base model on its device, where a whole model is held against it.

    Raises RoundRefused where nobody would deal it out to the processes of the round.
    """
    if ranks.is_sharded():
        raise RoundRefused(
            "with weights = full a KL to the base (trainer.kl_to_base, kl_to_base_budget) needs the"
            " base model whole in each process, and trainer.launch deals models out: take ddp, or"
            " set both to 0"
        )
    return load_frozen(plan.base_path, plan.trainer).to(device_for(plan.trainer))


def make_probes(model: Any, samples: Sequence[Sample], dtype: str) -> ProbeSet:
    """A few of the shortest rows, with the logprobs the engine will have to show."""
    probes = []
    for sample in shortest(samples):
        prompt, tokens = sample.prompt_token_ids, sample.token_ids[:PROBE_TOKENS]
        adapter = logprobs_of(model, prompt, tokens)
        with model.disable_adapter():
            base = logprobs_of(model, prompt, tokens)
        probes.append(
            Probe(
                prompt_token_ids=prompt,
                token_ids=tokens,
                logprobs=tuple(adapter),
                base_logprobs=tuple(base),
            )
        )
    return ProbeSet(dtype=dtype, probes=tuple(probes))


def probes_between(before: str, after: Path, samples: Sequence[Sample], plan: Plan) -> ProbeSet:
    """Probes of a whole model, as saved, with what the version `before` answers as their base.

    In main memory, one model after the other: there is room beside what trains.
    """
    rows = [(s.prompt_token_ids, s.token_ids[:PROBE_TOKENS]) for s in shortest(samples)]
    found = []
    for path in (after, before):
        model = load_frozen(path, plan.trainer)
        found.append([tuple(logprobs_of(model, *row)) for row in rows])
        del model
    probes = [
        Probe(prompt_token_ids=prompt, token_ids=tokens, logprobs=new, base_logprobs=old)
        for (prompt, tokens), new, old in zip(rows, *found, strict=True)
    ]
    return ProbeSet(dtype=plan.trainer.dtype, probes=tuple(probes))


def save_policy(
    trained: Path,
    *,
    model: Any,
    samples: Sequence[Sample],
    optimizer: Any,
    dtype: str,
    tracker: Tracker | None = None,
    full_base: str | None = None,
    whole: Plan | None = None,
) -> None:
    """Put weights, probes, the optimizer's moments and the tracker into `trained`, or nothing.

    Every process of a round calls it: the first one writes, and all go on after that.
    `full_base` is where the base model is that the engine serves, if `model` has it in four bits.
    `whole` is the round's plan where all of the model is trained.
    """
    probes = None if full_base or whole else make_probes(model, samples, dtype)
    weights = trained_weights(model)
    if not ranks.is_first():
        ranks.wait()
        return
    beside = trained.with_name(UNFINISHED)
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(trained, ignore_errors=True)
    if whole is None:
        model.save_pretrained(beside, state_dict=weights, save_embedding_layers=False)
        (beside / "README.md").unlink(missing_ok=True)
    else:
        save_whole(beside, model=model, weights=weights, base_path=whole.base_path, dtype=dtype)
        probes = probes_between(whole.parent_path or whole.base_path, beside, samples, whole)
    if probes is None:
        served = as_served(beside, str(full_base), getattr(torch, dtype))
        probes = make_probes(served, samples, dtype)
    (beside / PROBE).write_bytes(probes.to_json())
    if not ranks.is_sharded():
        torch.save(optimizer.state_dict(), beside / OPTIMIZER)
    if tracker is not None:
        (beside / TRACKER).write_bytes(tracker.to_json())
    sync_tree(beside)
    beside.rename(trained)
    sync_directory(trained.parent)
    ranks.wait()


def check_finite(model: Any) -> None:
    """Raise TrainingError when a trained number is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(whole(parameter)).all():
            raise TrainingError(f"training diverged: {name} holds NaN or infinite numbers")
