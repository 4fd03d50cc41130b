"""`[trainer]` and `[engine]`: when and how a round is trained, and the vLLM started for it."""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BeforeValidator, Field, model_validator

from trajectories.settings.section import Section

# LoRA's best rate is about ten times that of the whole model ("LoRA Without Regret", 2025).
FULL_LEARNING_RATE = 1e-5


def joined(written: Any) -> Any:
    """Names of algorithms as one word; several in turn may come as a list, or as one in JSON.

    Raises ValueError where one of them is there twice.

    >>> joined(["sft", "grpo"])
    'sft+grpo'
    """
    if isinstance(written, str) and written.lstrip().startswith("["):
        written = orjson.loads(written)
    names = written.split("+") if isinstance(written, str) else written
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{written!r} is neither a name nor a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{'+'.join(names)} runs an algorithm twice")
    return "+".join(names)


class TrainerSettings(Section):
    """When and how a round is trained."""

    algorithm: Annotated[str, BeforeValidator(joined)] = Field(
        "grpo",
        pattern=r"^[a-z0-9_-]+(\+[a-z0-9_-]+)*$",
        description="What a round runs: the name of an installed algorithm, or a list of names that"
        ' run one after the other (docs/algorithms.md), such as `["sft", "grpo"]`',
    )
    base_model_path: str | None = Field(
        None, description="Directory or hub name of the base model's weights"
    )
    min_trajectories: int = Field(
        64, ge=1, description="Rewarded, closed trajectories that start a round"
    )
    max_trajectories: int = Field(4096, ge=1, description="Most trajectories of one round")
    cold: bool = Field(
        False,
        description="Fill rounds up with unused trajectories that only the archive still has,"
        " newest first",
    )
    replay_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of a round's trajectories that earlier rounds used; 0.1 to 0.25 holds on"
        " to what was learned",
    )
    rollout_share: float = Field(
        0.5,
        ge=0,
        le=0.9,
        description="Largest share of a round's samples that are siblings: answers that nobody got"
        " (docs/siblings.md)",
    )
    interval_seconds: float | None = Field(
        None, gt=0, description="Also start a round this long after the last, with what there is"
    )
    min_labels: int = Field(
        64,
        ge=0,
        description="Least trajectories that somebody voted on in a round, after caps; never more"
        " than min_trajectories",
    )
    min_principals: int = Field(
        16,
        ge=0,
        description="Least sources of these votes; never more than half of those that labelled"
        " anything in the past week",
    )
    min_per_outcome: int = Field(
        8, ge=0, description="Least trajectories above and below the mean reward in a round"
    )
    max_staleness: int = Field(
        4, ge=0, description="Oldest policy version trained on, counted back from the current one"
    )
    epochs: int = Field(2, ge=1, description="Passes over a round's samples")
    weights: Literal["lora", "full"] = Field(
        "lora",
        description="What a round trains: an adapter; or the whole model, which takes the place of"
        " the engine's own",
    )
    learning_rate: float = Field(
        1e-4,
        gt=0,
        description="Of AdamW, constant over the round; unset with full weights: a tenth of it",
    )
    batch_size: int = Field(16, ge=2, description="Samples of one optimizer step")
    rank: int = Field(16, ge=1, le=256, description="Rank of the LoRA matrices")
    alpha: int = Field(32, ge=1, description="LoRA scale, divided by the rank")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="Modules that get LoRA matrices",
    )
    negative_weight: float = Field(
        0.25, ge=0, le=1, description="Factor on negative advantages (GRPO)"
    )
    baseline: Literal["leave_one_out", "tracker", "group", "batch", "none"] = Field(
        "leave_one_out", description="What a reward is held against (GRPO; docs/learning.md)"
    )
    missing: Literal["leave_out", "aipw"] = Field(
        "leave_out",
        description="What stands for people's missing rewards: what judges said; or that, put right"
        " by those who were asked at random (GRPO, with negative_weight = 1; docs/learning.md)",
    )
    aipw_limit: float = Field(
        100.0, ge=1, description="Largest reward, up or down, that such a correction makes (aipw)"
    )
    shrinkage: float = Field(
        4.0, ge=0, description="Weight of the batch mean in a task's baseline, in trajectories"
    )
    tracker_weight: float = Field(
        16.0, gt=0, description="Most that earlier rounds weigh in a task's baseline (tracker)"
    )
    tracker_half_life: float = Field(
        4.0, gt=0, description="Versions after which what was seen of a task counts half (tracker)"
    )
    credit: Literal["identical", "discounted", "step", "stepgroup"] = Field(
        "identical", description="How a trajectory's reward is spread over its calls (GRPO)"
    )
    turn_discount: float = Field(
        0.95, gt=0, le=1, description="Per call between a call and what it led to; not in identical"
    )
    loss: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"] = Field(
        "dapo", description="Which loss of the GRPO family (docs/algorithms.md)"
    )
    clip_low: float = Field(
        0.2, gt=0, lt=1, description="Importance ratios below 1 minus this are clipped (GRPO)"
    )
    clip_high: float = Field(
        0.28, gt=0, le=10, description="Importance ratios above 1 plus this are clipped (GRPO)"
    )
    dual_clip: float = Field(
        1.5, gt=1, description="Largest ratio that a negative advantage is multiplied with (GRPO)"
    )
    off_policy_threshold: float | None = Field(
        0.2, gt=0, description="Mean per-token KL beyond which a negative sample is masked"
    )
    kl_to_base: float = Field(0.0, ge=0, description="Coefficient of the KL to the base model")
    decoupled: bool = Field(
        False,
        description="Clip against the policy at the start of the round, and weigh by how much"
        " likelier that one was to say it than whoever did (GRPO)",
    )
    weight_cap: float = Field(
        2.0, gt=0, description="Largest such weight; larger ones count for as much"
    )
    kl_budget: float = Field(
        0.5,
        ge=0,
        description="KL to the version before, in nats an answer, at which a round stops; 0: none"
        " (GRPO)",
    )
    kl_to_base_budget: float = Field(
        0.0, ge=0, description="KL to the base model at which a round stops; 0: none (GRPO)"
    )
    task_guard: float = Field(
        0.25,
        ge=0,
        description="How much less likely a task's successes may become, in nats an answer, before"
        " its failures teach nothing; 0: any (GRPO)",
    )
    merge_calls: bool = Field(
        True, description="Calls that go on from each other share a row: same gradient, less work"
    )
    sft_threshold: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="SFT learns from trajectories rewarded above this; to KTO these are good, and"
        " those below it bad",
    )
    preference_beta: float = Field(
        0.1, gt=0, description="How tightly KTO and DPO hold the policy to the base model"
    )
    max_length: int = Field(4096, ge=16, description="Longest sample, in tokens")
    cut_context: bool = Field(
        False,
        description="A longer call loses the left of its prompt instead of being left out (SFT and"
        " KTO; docs/learning.md)",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the base model's weights; the same as vLLM's"
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="4bit: QLoRA, the base model as NF4 while it trains; needs a CUDA GPU and the"
        " extra `qlora` (docs/learning.md)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto: a GPU if there is one"
    )
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves it to torch")
    launch: str | None = Field(
        None,
        description="How several processes train a round: `ddp`, `fsdp`, `zero3`, `one_gpu`, or the"
        " path of a configuration of `accelerate launch`. Unset: one process",
    )
    launch_arguments: tuple[str, ...] = Field(
        (),
        description="More arguments of `accelerate launch`, one an item (of torchrun, with `cpu`)",
    )
    report_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        (), description="Who is told of each step, by TRL's own reporting: docs/scale.md"
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the trainer's /metrics")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of the trainer's /metrics, for Prometheus; 0: none"
    )
    seed: int = Field(0, ge=0, description="Of the order of rows and of fresh LoRA matrices")
    probe_tolerance: float = Field(
        0.0,
        ge=0,
        description="Largest served-to-trained logprob difference; 0: 1e-3 float32, 0.3 bfloat16",
    )
    drain_seconds: float = Field(
        120, gt=0, description="Longest wait for running trajectories before a version retires"
    )
    pause_seconds: float = Field(
        60,
        gt=0,
        description="Longest wait for running calls before an engine's own weights are exchanged",
    )
    full_kept: int = Field(
        2,
        ge=2,
        description="Full-weight versions that stay on disk: the current one and those it can be"
        " rolled back to",
    )
    shuffle_rewards: bool = Field(
        False, description="Control experiment: permute the rewards of a round. Never in production"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_whole_model_learns_in_smaller_steps(cls, written: Any) -> Any:
        is_full = isinstance(written, dict) and written.get("weights") == "full"
        return {"learning_rate": FULL_LEARNING_RATE, **written} if is_full else written

    @model_validator(mode="after")
    def _a_whole_model_is_whole(self) -> Self:
        if self.weights == "full" and self.quantization != "none":
            raise ValueError(
                f"weights = full trains every number of the model, and quantization ="
                f" {self.quantization} keeps none of them: set quantization = none, or weights ="
                " lora"
            )
        return self

    @property
    def most_unused(self) -> int:
        """How many trajectories that no round used one round looks at; the rest is replayed."""
        return max(1, round(self.max_trajectories * (1 - self.replay_share)))


class EngineSettings(Section):
    """The vLLM that `ratchet up` starts by itself."""

    serve: bool = Field(False, description="Start vLLM here; false: `upstream.url` runs elsewhere")
    model: str | None = Field(None, description="Model directory or hub name to serve")
    max_model_len: int = Field(2048, ge=16, description="Longest prompt plus answer, in tokens")
    dtype: str = Field("auto", description="As vLLM takes it")
    max_loras: int | None = Field(
        None,
        ge=2,
        description="Adapters that it holds at once (vLLM's --max-loras), also where it runs"
        " elsewhere; unset: 4, and 1 more for each further policy",
    )
    max_lora_rank: int = Field(16, ge=1, description="Not below trainer.rank")
    arguments: tuple[str, ...] = Field((), description="More arguments for `vllm serve`")
