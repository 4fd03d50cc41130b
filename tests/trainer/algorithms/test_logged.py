"""Merged rows under a real model: the gradient of separate ones, fewer tokens, and budgets."""

import random
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainer.records import a_sample
from trainer.batch.samples import Sample
from trainer.runs import Plan
from trajectories.settings import TrainerSettings

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.trainer.tiny_model import VOCABULARY, save_base
    from trainer.algorithms.grpo import make_grpo_trainer, numbers_of, shape_of
    from trainer.algorithms.logged import LoggedGRPOTrainer
    from trainer.algorithms.loss import Loss
    from trainer.algorithms.rows import LoggedRows
    from trainer.policy import RoundRefused, load_policy, logprobs_of, make_optimizer

LOSSES: list[Loss] = ["grpo", "dapo", "dr_grpo", "gspo", "cispo"]
TURNS = 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def log(base: Path) -> list[Sample]:
    """Three conversations of ten calls, answered by the base, good and bad in turn."""
    model, _ = load_policy(a_plan(base))
    chance = random.Random(0)

    def words(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(2, VOCABULARY) for _ in range(count))

    found = []
    for number in range(3):
        said = words(6)
        for step in range(TURNS):
            answer = words(chance.randrange(2, 6))
            found.append(
                a_sample(
                    f"t{number}",
                    1.0 if (number + step) % 2 else -1.0,
                    id=f"t{number}-{step}/0",
                    task=f"task {step % 2}",
                    prompt_token_ids=said,
                    token_ids=answer,
                    logprobs=tuple(logprobs_of(model, said, answer)),
                )
            )
            said = (*said, *answer, *words(3))
    return found


def a_plan(base: Path, **changes: Any) -> Plan:
    fields = {"rank": 4, "alpha": 8, "batch_size": 8, "threads": 1, "device": "cpu", **changes}
    return Plan(
        run_id="run_1",
        policy="policy",
        algorithm="grpo",
        base_path=str(base),
        parent=0,
        parent_path=None,
        optimizer_path=None,
        trainer=TrainerSettings(**fields),
        refs=(),
    )


def a_trainer(
    base: Path, samples: list[Sample], path: Path, *, noise: float = 0.0, **changes: Any
) -> Any:
    """A trainer whose fresh adapter is moved by `noise` first."""
    plan = a_plan(base, **changes)
    torch.manual_seed(0)
    model, tokenizer = load_policy(plan)
    model.double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += noise * torch.randn_like(parameter)
    return make_grpo_trainer(
        model,
        tokenizer,
        samples=samples,
        advantages=[sample.reward for sample in samples],
        settings=plan.trainer,
        output=path,
        optimizer=make_optimizer(model, plan.trainer, None),
        callbacks=[],
    )


def gradient(trainer: Any) -> tuple[float, Any]:
    """Loss and gradient of one step over all rows."""
    trainer.model.train()
    total = 0.0
    for batch in trainer.micro_batches(range(len(trainer.rows))):
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        total += loss.item()
    parts = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return total, torch.cat(parts)


@pytest.mark.parametrize("loss", LOSSES)
def test_merged_rows_have_the_gradient_of_separate_ones(
    loss: Loss, base: Path, log: list[Sample], tmp_path: Path
) -> None:
    changes = {"loss": loss, "kl_to_base": 0.05, "noise": 0.05, "off_policy_threshold": 0.02}
    merged = a_trainer(base, log, tmp_path / "merged", **changes)
    separate = a_trainer(base, log, tmp_path / "separate", merge_calls=False, **changes)
    assert (len(merged.rows), len(separate.rows)) == (3, 3 * TURNS)
    one, other = gradient(merged), gradient(separate)
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert float((one[1] - other[1]).norm() / other[1].norm()) < 1e-5


def test_ten_turns_are_trained_on_with_a_third_of_the_tokens(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    merged = a_trainer(base, log, tmp_path)
    saved = merged.rows.saving
    assert saved.separate >= 3 * saved.merged
    ids = sum(len(merged.rows[at].token_ids) for at in range(len(merged.rows)))
    assert ids == saved.merged


def test_steps_stay_as_many_as_without_merging(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    shape = a_trainer(base, log, tmp_path, batch_size=16).shape
    assert shape.batch == 2, "two rows of ten answers each are about sixteen samples"


def test_a_round_stops_before_the_update_that_is_beyond_its_budget(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    changes = {"learning_rate": 3e-3, "epochs": 10}
    trainer = a_trainer(base, log, tmp_path / "held", kl_budget=0.5, **changes)
    trainer.train()
    assert 1 < trainer.state.global_step < trainer.state.max_steps
    (note,) = [note for note in trainer.notes if note.startswith("stopped after")]
    assert "trainer.kl_budget (0.5)" in note
    moments = trainer.optimizer.state_dict()["state"].values()
    assert {int(state["step"]) for state in moments} == {trainer.state.global_step - 1}
    free = a_trainer(base, log, tmp_path / "free", kl_budget=0.0, **changes)
    free.train()
    assert free.state.global_step == free.state.max_steps


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_one_row_can_be_dealt_out_to_any_number_of_processes(
    processes: int, log: list[Sample]
) -> None:
    rows = LoggedRows(log[:TURNS], [1.0] * TURNS, parent=0)
    assert len(rows) == 1
    shape = shape_of(rows, 8, processes)
    few = SimpleNamespace(rows=rows, shape=shape, args=SimpleNamespace(seed=0))
    loaded = numbers_of(rows)
    numbers = [loaded[at]["row"] for at in LoggedGRPOTrainer._get_train_sampler(few)]
    assert numbers.count(0) == shape.passes
    assert len(numbers) >= processes


def test_a_policy_that_is_too_far_from_the_base_learns_nothing_more(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    trainer = a_trainer(base, log, tmp_path, noise=0.3, kl_to_base_budget=0.01)
    with pytest.raises(RoundRefused, match=r"trainer\.kl_to_base_budget"):
        trainer.train()


def test_a_task_that_is_being_unlearned_loses_its_failures(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    """Successes of task 1 were likelier once than the policy finds them now."""
    fallen = [
        sample.model_copy(update={"logprobs": tuple(value + 1.0 for value in sample.logprobs)})
        if sample.task == "task 1" and sample.reward > 0
        else sample
        for sample in log
    ]
    trainer = a_trainer(base, fallen, tmp_path, learning_rate=1e-5, kl_budget=0.0, epochs=2)
    trainer.train()
    assert any("failures of task 1 were left out" in note for note in trainer.notes)
    (batch,) = trainer.micro_batches(range(len(trainer.rows)))
    unguarded = trainer._unguarded(batch)
    tasks = batch["tasks"]
    number = next(n for key, n in trainer.rows.tasks.items() if key[2] == "task 1")
    is_loss = batch["spans"] > 0
    assert not (unguarded[is_loss & (tasks == number)] < 0).any()
    assert (unguarded[is_loss & (tasks != number)] < 0).any()


def test_a_log_without_the_parent_s_own_answers_is_held_against_computed_logprobs(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    old = [sample.model_copy(update={"version": 7}) for sample in log]
    trainer = a_trainer(base, old, tmp_path)
    assert len(trainer.rows.computed) == len(log)
    for number, sample in enumerate(log):
        assert list(trainer.rows.computed[number]) == pytest.approx(sample.logprobs, abs=1e-4)


def test_a_few_answers_of_the_parent_do_not_switch_off_what_is_held_against_it(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    mixed = [s.model_copy(update={"version": 7}) if n % 15 else s for n, s in enumerate(log)]
    trainer = a_trainer(base, mixed, tmp_path)
    assert set(trainer.rows.computed) == {n for n in range(len(log)) if n % 15}
    spans = [span for row in trainer.rows for span in row.spans]
    assert len(spans) == len(log)
    assert all(span.parent is not None for span in spans)


def test_the_parent_s_logprobs_are_computed_for_a_task_that_it_hardly_answered(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    """The guard is of tasks: what the parent said of another one is of no use to it."""
    few = [
        s.model_copy(update={"version": 7}) if s.task == "task 1" and n > 6 else s
        for n, s in enumerate(log)
    ]
    trainer = a_trainer(base, few, tmp_path / "few")
    assert set(trainer.rows.computed) == {n for n, s in enumerate(few) if s.version == 7}
    most = [s.model_copy(update={"version": 7}) if n < 10 else s for n, s in enumerate(log)]
    assert not a_trainer(base, most, tmp_path / "most").rows.computed


def test_the_decoupled_loss_holds_on_to_the_policy_at_the_start(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    trainer = a_trainer(base, log, tmp_path, decoupled=True, learning_rate=1e-3, epochs=2)
    before = {number: list(values) for number, values in trainer.rows.computed.items()}
    assert len(before) == len(log)
    trainer.train()
    assert {number: list(values) for number, values in trainer.rows.computed.items()} == before


def test_a_resumed_round_goes_on_with_its_budget(
    base: Path, log: list[Sample], tmp_path: Path
) -> None:
    first = a_trainer(base, log, tmp_path, epochs=5)
    first.train()
    checkpoint = min(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    second = a_trainer(base, log, tmp_path / "again", epochs=5)
    second.train(resume_from_checkpoint=str(checkpoint))
    assert second.state.global_step == first.state.max_steps
    assert second.ledger.kl_to_parent == pytest.approx(first.ledger.kl_to_parent, rel=1e-3)
    assert second.ledger.state()["seen"] == first.ledger.state()["seen"]
