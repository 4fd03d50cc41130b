"""What a round may spend, and what it says when it has."""

import orjson

from trainer.algorithms.budgets import LEAST_SUCCESSES, STEPS, Ledger, Limits, StepSums


def step(**changes: object) -> StepSums:
    fields: dict[str, object] = {
        "known": 10.0,
        "kl_to_parent": 0.0,
        "answers": 10.0,
        "kl_to_base": 0.0,
        "successes": (0.0, 0.0),
        "rises": (0.0, 0.0),
    }
    return StepSums(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_kl_above_its_budget_is_an_excess_and_one_below_is_none() -> None:
    ledger = Ledger(Limits(kl_to_parent=0.5), ("a", "b"))
    ledger.add(step(kl_to_parent=4.9))
    assert ledger.excess is None
    ledger.add(step(kl_to_parent=5.3))
    assert ledger.excess is not None
    assert "trainer.kl_budget" in ledger.excess


def test_a_kl_is_a_mean_over_the_answers_of_the_last_steps() -> None:
    ledger = Ledger(Limits(kl_to_parent=0.5), ("a", "b"))
    ledger.add(step(kl_to_parent=900.0))
    for _ in range(STEPS):
        ledger.add(step(kl_to_parent=1.0))
    assert ledger.kl_to_parent == 0.1
    ledger.add(step(known=0.0, kl_to_parent=0.0))
    assert ledger.kl_to_parent == 0.1, "a step in which nothing is known says nothing"


def test_the_base_has_a_budget_of_its_own() -> None:
    ledger = Ledger(Limits(kl_to_parent=0.5, kl_to_base=2.0), ("a", "b"))
    ledger.add(step(kl_to_base=30.0))
    assert ledger.excess is not None
    assert "trainer.kl_to_base_budget" in ledger.excess


def test_a_limit_of_0_is_none() -> None:
    ledger = Ledger(Limits(), ("a", "b"))
    ledger.add(step(kl_to_parent=1e9, kl_to_base=1e9, successes=(9.0, 9.0), rises=(-99.0, -99.0)))
    assert ledger.excess is None
    assert ledger.closed == frozenset()


def test_a_task_whose_successes_fall_is_closed_until_they_are_back() -> None:
    ledger = Ledger(Limits(task_fall=0.25), ("a", "b"))
    ledger.add(step(successes=(8.0, 8.0), rises=(-4.0, 4.0)))
    assert ledger.closed == {0}
    (note,) = ledger.notes
    assert "failures of a" in note
    ledger.add(step(successes=(8.0, 8.0), rises=(4.0, 4.0)))
    assert ledger.closed == frozenset()
    assert ledger.notes == (note,), "what was is still said"


def test_a_few_successes_close_nothing() -> None:
    ledger = Ledger(Limits(task_fall=0.25), ("a", "b"))
    ledger.add(step(successes=(LEAST_SUCCESSES - 1.0, 0.0), rises=(-50.0, 0.0)))
    assert ledger.closed == frozenset()


def test_a_round_that_is_resumed_has_spent_what_it_had() -> None:
    ledger = Ledger(Limits(kl_to_parent=0.5, task_fall=0.25), ("a", "b"))
    for _ in range(6):
        ledger.add(step(kl_to_parent=3.0, successes=(8.0, 8.0), rises=(-4.0, 4.0)))
    again = Ledger(ledger.limits, ledger.tasks)
    again.restore(orjson.loads(orjson.dumps(ledger.state())))
    assert orjson.dumps(again.state()) == orjson.dumps(ledger.state())
    assert (again.closed, again.notes) == (ledger.closed, ledger.notes)
