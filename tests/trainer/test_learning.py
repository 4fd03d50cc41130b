"""Learning itself, on a random Qwen3 of a few thousand weights: signs, masks, moments, resuming."""

import inspect
import random
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.records import a_sample
from trainer.advantages.tracker import recall
from trainer.batch.samples import Sample
from trajectories.resources import ProbeSet

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():  # TRL warns of each vLLM it was not tested with
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOTrainer

    from tests.trainer.rounds import a_plan, a_run
    from tests.trainer.tiny_model import VOCABULARY, save_base
    from trainer.algorithms.grpo import make_grpo_trainer
    from trainer.algorithms.logged import LoggedGRPOTrainer
    from trainer.policy import (
        RoundRefused,
        TrainingError,
        load_policy,
        logprobs_of,
        make_optimizer,
        save_policy,
    )
    from trainer.round import check_gap, last_checkpoint, train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    """Answers of the base with its own logprobs; those that start with an even token are good."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chance = random.Random(0)
    rows = []
    for number in range(16):
        prompt = tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(2, 6)))
        tokens = tuple(chance.randrange(2, VOCABULARY) for _ in range(chance.randrange(2, 5)))
        rows.append(
            a_sample(
                f"default/t{number}",
                1.0 if number % 2 else -1.0,
                prompt_token_ids=prompt,
                token_ids=tokens,
                logprobs=tuple(logprobs_of(model, prompt, tokens)),
            )
        )
    return rows


def mean_logprob(model: Any, samples: list[Sample]) -> float:
    values = [
        value for s in samples for value in logprobs_of(model, s.prompt_token_ids, s.token_ids)
    ]
    return sum(values) / len(values)


def grpo(model: Any, tokenizer: Any, samples: list[Sample], path: Path, **changes: Any) -> Any:
    settings = a_plan(path, **changes).trainer
    return make_grpo_trainer(
        model,
        tokenizer,
        samples=samples,
        advantages=[sample.reward for sample in samples],
        settings=settings,
        output=path,
        optimizer=make_optimizer(model, settings, None),
        callbacks=[],
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_get_train_sampler", ["self", "dataset"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
    ],
)
def test_trl_still_has_the_methods_that_are_overridden_or_called(
    name: str, parameters: list[str]
) -> None:
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found[: len(parameters)] == parameters


def test_grpo_raises_good_answers_and_lowers_bad_ones(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    model, tokenizer = load_policy(a_plan(base))
    good = [s for s in samples if s.reward > 0]
    bad = [s for s in samples if s.reward < 0]
    before = mean_logprob(model, good), mean_logprob(model, bad)
    grpo(model, tokenizer, samples, tmp_path).train()
    assert mean_logprob(model, good) > before[0] + 0.1
    assert mean_logprob(model, bad) < before[1] - 0.01


def test_the_first_gradient_is_the_policy_gradient_of_the_recorded_answers(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """At ratio 1 the clipped loss has the gradient of -sum(A * logp) / tokens."""
    model, tokenizer = load_policy(a_plan(base))
    trainer = grpo(model, tokenizer, samples, tmp_path)
    (batch,) = trainer.micro_batches(range(len(samples)))
    model.train()
    trainer._compute_loss(model, batch).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tokens = sum(len(sample.token_ids) for sample in samples)
    for sample in samples:
        ids = torch.tensor([[*sample.prompt_token_ids, *sample.token_ids]])
        logits = model(input_ids=ids).logits[0, len(sample.prompt_token_ids) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(sample.token_ids)[:, None])
        (-sample.reward * chosen.sum() / tokens).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_rows_far_off_policy_are_clipped_away(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    model, tokenizer = load_policy(a_plan(base))
    stale = [
        s.model_copy(update={"logprobs": tuple(value - 5 * s.reward for value in s.logprobs)})
        for s in samples
    ]
    trainer = grpo(model, tokenizer, stale, tmp_path)
    (batch,) = trainer.micro_batches(range(len(stale)))
    model.train()
    trainer._compute_loss(model, batch).backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_a_kl_to_the_base_holds_the_policy_back(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    drifts = []
    for kl in (0.0, 20.0):
        model, tokenizer = load_policy(a_plan(base))
        before = mean_logprob(model, samples[1::2])
        grpo(
            model,
            tokenizer,
            samples,
            tmp_path / str(kl),
            kl_to_base=kl,
            learning_rate=3e-3,
            epochs=8,
        ).train()
        assert "ref" not in model.peft_config, "the anchor is the base, not a copy of the adapter"
        drifts.append(abs(mean_logprob(model, samples[1::2]) - before))
    assert drifts[1] < 0.5 * drifts[0]


def test_a_batch_in_several_passes_trains_the_same_rows_to_the_same_weights(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL takes a new batch only every few micro-steps: rows were skipped in between."""
    seen: dict[str, list[int]] = {}
    probes = {}
    longest = max(len(s.prompt_token_ids) + len(s.token_ids) for s in samples)
    for name, tokens in (("whole", 8192), ("cut", longest)):
        monkeypatch.setattr("trainer.batch.order.TOKENS_PER_PASS", tokens)
        counts = seen.setdefault(name, [])
        original = LoggedGRPOTrainer.micro_batches

        def note(
            self: Any, numbers: Any, counts: list[int] = counts, original: Any = original
        ) -> Any:
            counts.append(len(numbers))
            return original(self, numbers)

        with monkeypatch.context() as patched:
            patched.setattr(LoggedGRPOTrainer, "micro_batches", note)
            run = a_run(tmp_path / name, a_plan(base), samples)
            train(run)
        probes[name] = ProbeSet.from_json((run.trained / "probe.json").read_bytes()).probes
    assert sum(seen["cut"]) == sum(seen["whole"])
    for one, other in zip(probes["whole"], probes["cut"], strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


@pytest.mark.parametrize("algorithm", ["grpo", "sft"])
def test_a_round_leaves_weights_probes_and_moments(
    algorithm: str, base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    rows = samples if algorithm == "grpo" else samples[1::2]
    directory = a_run(tmp_path / "run", a_plan(base, algorithm), rows)
    metrics = train(directory)
    assert metrics["behaviour_gap"] < 1e-4
    assert metrics["load_seconds"] > 0 < metrics["step_seconds"] < metrics["train_seconds"]
    assert metrics["steps"] == (4 if algorithm == "grpo" else 2)
    probes = ProbeSet.from_json((directory.trained / "probe.json").read_bytes())
    shown = [
        abs(a - b) for p in probes.probes for a, b in zip(p.logprobs, p.base_logprobs, strict=True)
    ]
    assert max(shown) > 0.01
    assert {path.name for path in directory.trained.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "probe.json",
        "optimizer.pt",
    }
    child = a_plan(base, algorithm).model_copy(
        update={
            "parent": 1,
            "parent_path": str(directory.trained),
            "optimizer_path": str(directory.trained / "optimizer.pt"),
        }
    )
    model, _ = load_policy(child)
    again = [logprobs_of(model, p.prompt_token_ids, p.token_ids) for p in probes.probes]
    assert again == [pytest.approx(p.logprobs, abs=1e-5) for p in probes.probes]
    optimizer = make_optimizer(model, child.trainer, child.optimizer_path)
    steps = {int(state["step"]) for state in optimizer.state_dict()["state"].values()}
    assert steps == {int(metrics["steps"])}, "Adam's moments go on from round to round"


def test_a_tracker_goes_on_from_version_to_version(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    plan = a_plan(base, baseline="tracker", epochs=1)
    trained = a_run(tmp_path / "one", plan, samples)
    train(trained)
    moments = str(trained.trained / "optimizer.pt")
    assert [value.weight for value in recall(moments).values] == [16.0]
    child = plan.model_copy(
        update={"parent": 1, "parent_path": str(trained.trained), "optimizer_path": moments}
    )
    again = a_run(tmp_path / "two", child, samples)
    train(again)
    (value,) = recall(str(again.trained / "optimizer.pt")).values
    assert (value.version, value.weight) == (1, 16 * 2**-0.25 + 16)


def test_a_round_killed_in_the_middle_ends_where_an_unbroken_one_does(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    class KillAt(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise Killed

    whole = a_run(tmp_path / "whole", a_plan(base), samples)
    train(whole)
    broken = a_run(tmp_path / "broken", a_plan(base), samples)
    monkeypatch.setattr("trainer.round.Divergence", KillAt)
    with pytest.raises(Killed):
        train(broken)
    monkeypatch.undo()
    assert last_checkpoint(broken.path / "checkpoints") is not None
    assert train(broken)["steps"] == 4
    probes = [ProbeSet.from_json((d.trained / "probe.json").read_bytes()) for d in (whole, broken)]
    for one, other in zip(probes[0].probes, probes[1].probes, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_a_round_killed_while_it_saves_leaves_nothing_half_and_trains_again(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    run = a_run(tmp_path / "run", a_plan(base), samples)
    monkeypatch.setattr("trainer.policy.torch.save", die)  # the weights are written by then
    with pytest.raises(Killed):
        train(run)
    monkeypatch.undo()
    assert not run.trained.exists()
    train(run)
    assert {path.name for path in run.trained.iterdir()} >= {
        "adapter_model.safetensors",
        "probe.json",
        "optimizer.pt",
    }


def test_a_log_that_was_tokenised_again_fails_the_round(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    foreign = [s.model_copy(update={"token_ids": (9, *s.token_ids[1:])}) for s in samples]
    with pytest.raises(TrainingError, match="differ from the recorded ones"):
        train(a_run(tmp_path / "run", a_plan(base), foreign))


def test_the_gap_is_judged_by_the_largest_in_float32_and_the_mean_in_bfloat16() -> None:
    assert check_gap([1e-6, 5e-4], "float32", 0.0) == 5e-4
    with pytest.raises(TrainingError):
        check_gap([0.0] * 999 + [0.01], "float32", 0.0)
    assert check_gap([0.0] * 999 + [1.0], "bfloat16", 0.0) == 1.0
    assert check_gap([], "float32", 0.0) == 0.0


def test_a_loss_that_is_nan_fails_the_round(
    base: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(objective: Any, answers: Any, size: Any) -> Any:
        return answers.policy_bt.sum() * float("nan"), answers.spans_bt > 0

    monkeypatch.setattr("trainer.algorithms.logged.policy_loss", broken)
    with pytest.raises(TrainingError, match="training diverged at step 1: loss is nan"):
        train(a_run(tmp_path / "run", a_plan(base), samples))


def test_an_adapter_of_another_rank_is_not_trained_on(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    plan = a_plan(base)
    model, _ = load_policy(plan)
    optimizer = make_optimizer(model, plan.trainer, None)
    save_policy(tmp_path / "v1", model=model, samples=samples, optimizer=optimizer, dtype="float32")
    other = a_plan(base, rank=8).model_copy(update={"parent_path": str(tmp_path / "v1")})
    with pytest.raises(RoundRefused, match="set them back, or roll back to version 0"):
        load_policy(other)
