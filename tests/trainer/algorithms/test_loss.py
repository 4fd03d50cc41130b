"""Loss and gradient are those of an independent float64 reference, whatever is merged or masked."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import pytest

from tests.trainer.algorithms.reference import Case, Knobs, loss_and_gradient
from tests.trainer.records import a_sample
from trainer.advantages.advantage import advantages
from trainer.advantages.credit import Estimator
from trainer.algorithms.rows import LoggedRows
from trainer.batch.samples import Sample

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trainer.algorithms.loss import Answers, Loss, Objective, Size, policy_loss
    from trainer.algorithms.tensors import tensors_of

LOSSES: list[Loss] = ["grpo", "dapo", "dr_grpo", "gspo", "cispo"]
CREDITS: list[Estimator] = ["identical", "discounted", "step", "stepgroup"]
LONGEST = 7.0


def a_log(seed: int) -> list[Sample]:
    """Trajectories of up to four calls, with votes on calls and on the whole."""
    chance = random.Random(seed)
    found = []
    for number in range(6):
        said: tuple[int, ...] = (number, 1, 2)
        calls = chance.randrange(1, 5)
        outcome = chance.choice([-1.0, 1.0])
        for step in range(calls):
            answer = tuple(chance.randrange(3, 60) for _ in range(chance.randrange(1, 6)))
            vote = chance.choice([-1.0, 0.5, 1.0])
            found.append(
                a_sample(
                    f"t{number}",
                    outcome,
                    id=f"t{number}-{step}/0",
                    version=chance.randrange(3),
                    prompt_token_ids=said,
                    token_ids=answer,
                    logprobs=tuple(-2 * chance.random() for _ in answer),
                    step=step,
                    calls_to_go=calls - 1 - step,
                    anchor="first" if step == 0 else f"{number}-{step}",
                    outcome=outcome,
                    votes=((0, vote),),
                    air=((0, -0.2),) if step == 1 else (),
                )
            )
            said = (*said, *answer, 9) if chance.random() < 0.8 else (*said, 8, *answer)
    return found


def cases_of(samples: list[Sample], values: Sequence[float], seed: int) -> list[Case]:
    """Each answer with made-up logprobs: near the recorded ones, and far from them."""
    chance = random.Random(seed)
    found = []
    for sample, value in zip(samples, values, strict=True):
        spread = chance.choice([0.05, 0.4, 1.5])

        def near(of: Sequence[float] = sample.logprobs, by: float = spread) -> list[float]:
            return [one + chance.gauss(0, by) for one in of]

        found.append(Case(near(), list(sample.logprobs), near(), near(), value))
    return found


def table(rows: LoggedRows, numbers: Sequence[int], shape: Any, of: Sequence[Any]) -> Any:
    """One value a sample, or one for each of its tokens, where its span stands."""
    found = torch.zeros(shape, dtype=torch.float64)
    for place, number in enumerate(numbers):
        for span in rows.rows[number].spans:
            values = torch.tensor(of[span.sample], dtype=torch.float64)
            found[place, span.start : span.stop] = values
    return found


def ours(
    rows: LoggedRows, cases: list[Case], knobs: Knobs, micro_batches: int = 1
) -> tuple[float, list[list[float]]]:
    """What the trainer's function says of the same answers, by sample."""
    objective = Objective(
        knobs.loss,  # type: ignore[arg-type]
        clip_low=knobs.low,
        clip_high=knobs.high,
        dual_clip=knobs.dual,
        off_policy_threshold=knobs.threshold,
        is_decoupled=knobs.is_decoupled,
        weight_cap=knobs.cap,
        kl_to_base=knobs.beta,
    )
    total = 0.0
    gradient: list[list[float]] = [[] for _ in cases]
    tokens = float(sum(len(case.policy) for case in cases))
    size = Size(torch.tensor(tokens).double(), torch.tensor(len(cases)).double(), knobs.longest)
    for part in range(micro_batches):
        numbers = range(part, len(rows), micro_batches)
        batch = tensors_of([rows[number] for number in numbers], fill=0)

        def tabled(
            name: str, numbers: Sequence[int] = numbers, shape: Any = batch["spans"].shape
        ) -> Any:
            return table(rows, numbers, shape, [getattr(case, name) for case in cases])

        policy_bt = tabled("policy").requires_grad_()
        advantages_bt = tabled("advantage")
        torch.testing.assert_close(batch["advantages"].double(), advantages_bt)
        torch.testing.assert_close(batch["behaviour"].double(), tabled("behaviour"))
        answers = Answers(
            policy_bt,
            tabled("behaviour"),
            advantages_bt,
            batch["spans"],
            tabled("proximal"),
            tabled("base"),
        )
        loss, _ = policy_loss(objective, answers, size)
        loss.backward()
        total += loss.item()
        for place, number in enumerate(numbers):
            for span in rows.rows[number].spans:
                gradient[span.sample] = policy_bt.grad[place, span.start : span.stop].tolist()
    return total, gradient


def prepared(credit: Estimator, seed: int, *, is_merged: bool) -> tuple[LoggedRows, list[Case]]:
    samples = a_log(seed)
    values = advantages(
        samples, shrinkage=4.0, negative_weight=0.5, credit=credit, turn_discount=0.9
    )
    rows = LoggedRows(samples, values, parent=2, is_merged=is_merged)
    assert rows.spans == len(samples), "every answer has an advantage"
    return rows, cases_of(samples, values, seed)


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("is_decoupled", [False, True], ids=["behaviour", "decoupled"])
@pytest.mark.parametrize("threshold", [None, 0.1], ids=["unmasked", "masked"])
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_are_those_of_the_reference(
    loss: Loss, threshold: float | None, is_decoupled: bool, credit: Estimator
) -> None:
    for seed, beta in ((1, 0.0), (2, 0.1)):
        knobs = Knobs(loss, threshold=threshold, is_decoupled=is_decoupled, beta=beta)
        rows, cases = prepared(credit, seed, is_merged=True)
        assert len(rows) < len(cases), "some answers share a row"
        expected, slopes = loss_and_gradient(cases, knobs)
        found, gradient = ours(rows, cases, knobs)
        assert found == pytest.approx(expected, abs=1e-9)
        for one, other in zip(gradient, slopes, strict=True):
            assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_merged_rows_and_several_micro_batches_change_neither_loss_nor_gradient(
    loss: Loss,
) -> None:
    knobs = Knobs(loss, threshold=0.1, beta=0.05)
    separate, cases = prepared("step", 3, is_merged=False)
    expected = ours(separate, cases, knobs)
    merged, _ = prepared("step", 3, is_merged=True)
    for parts in (1, 2, 3):
        found = ours(merged, cases, knobs, parts)
        assert found[0] == pytest.approx(expected[0], abs=1e-12)
        assert found[1] == [pytest.approx(slopes, abs=1e-12) for slopes in expected[1]]


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "gspo"])
def test_the_reference_s_derivatives_are_those_of_its_loss(loss: Loss) -> None:
    """By finite differences; not cispo's, which holds the weight fixed."""
    knobs = Knobs(loss, threshold=None, is_decoupled=True, beta=0.1)
    _, cases = prepared("identical", 4, is_merged=True)
    value, slopes = loss_and_gradient(cases, knobs)
    for number in (0, len(cases) - 1):
        case = cases[number]
        moved = [*case.policy]
        moved[0] += 1e-7
        others = [*cases]
        others[number] = Case(moved, case.behaviour, case.proximal, case.base, case.advantage)
        after, _ = loss_and_gradient(others, knobs)
        assert (after - value) / 1e-7 == pytest.approx(slopes[number][0], abs=1e-5)


def test_long_answers_are_not_masked_for_being_long() -> None:
    """The same drift at each token masks an answer of any length, or none of any."""
    for length in (2, 200):
        policy_bt = torch.full((1, length), -1.1, requires_grad=True)
        spans_bt = torch.ones((1, length), dtype=torch.int64)
        answers = Answers(
            policy_bt, torch.full((1, length), -1.0), torch.full((1, length), -1.0), spans_bt
        )
        size = Size(torch.tensor(float(length)), torch.tensor(1.0), LONGEST)
        for threshold, is_masked in ((0.2, False), (0.05, True)):
            _, is_idle_bt = policy_loss(Objective(off_policy_threshold=threshold), answers, size)
            assert bool(is_idle_bt.all()) is is_masked


def test_ratios_beyond_all_numbers_leave_a_finite_gradient() -> None:
    policy_bt = torch.tensor([[-0.1, -900.0]], requires_grad=True)
    answers = Answers(
        policy_bt,
        torch.tensor([[-900.0, -0.1]]),
        torch.tensor([[1.0, 1.0]]),
        torch.ones((1, 2), dtype=torch.int64),
    )
    for loss in LOSSES:
        value, _ = policy_loss(
            Objective(loss), answers, Size(torch.tensor(2.0), torch.tensor(1.0), LONGEST)
        )
        policy_bt.grad = None
        value.backward()
        assert bool(torch.isfinite(policy_bt.grad).all())
