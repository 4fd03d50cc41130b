"""Whose traffic a policy learns from, and what of it is too personal."""

from typing import Any

import pytest

from tests.trainer.records import a_selection, a_trajectory, a_transition
from trainer.batch.batching import selection_for, sort_out
from trainer.batch.samples import Exclusion
from trajectories.errors import ScrubError, SettingsError
from trajectories.model import Choice, Trajectory
from trajectories.privacy.learning import personal_check
from trajectories.privacy.scrubber import Scrubber
from trajectories.settings import Settings
from trajectories.store import TrajectoryRef


def sorted_out(*found: Trajectory, **changes: Any) -> Any:
    pairs = [(TrajectoryRef(entry.tenant, entry.id), entry) for entry in found]
    return sort_out(pairs, a_selection(**changes))


def saying(name: str, question: str = "hello", answer: str = "hello", **changes: Any) -> Trajectory:
    choice = Choice(
        message={"role": "assistant", "content": answer},
        token_ids=(4, 5),
        logprobs=(-0.5, -0.25),
        finish_reason="stop",
    )
    request = {"messages": [{"role": "user", "content": question}]}
    transition = a_transition(name, request=request, choices=(choice,))
    return a_trajectory(name, transitions=(transition,), **changes)


def test_a_policy_learns_from_one_tenants_traffic_only() -> None:
    batch = sorted_out(a_trajectory("ours"), a_trajectory("theirs", tenant="acme"))
    assert {sample.tenant for sample in batch.samples} == {"default"}
    assert batch.excluded == {Exclusion.OTHER_TENANT: 1}
    assert batch.set_aside == ("acme/theirs",)  # so that it does not stand in the queue for ever


def test_which_tenant_that_is_stands_in_the_settings() -> None:
    settings = Settings(policy_tenant="acme")
    selection = selection_for(settings, "grpo", 0)
    assert selection.tenant == "acme"
    batch = sorted_out(a_trajectory("a"), a_trajectory("b", tenant="acme"), tenant="acme")
    assert batch.refs == ("acme/b",)


@pytest.mark.parametrize(
    ("question", "answer", "count"),
    [("hello", "hello", 1), ("I am ann@example.org", "hello", 0), ("hi", "ask a@example.org", 0)],
)
def test_what_the_scrub_would_change_is_not_trained_on(
    question: str, answer: str, count: int
) -> None:
    check = personal_check(Settings())
    batch = sorted_out(saying("t1", question, answer), is_personal=check)
    assert len(batch.samples) == count
    assert batch.excluded[Exclusion.PERSONAL] == 1 - count


def test_it_may_be_trained_on_where_the_settings_say_so() -> None:
    assert personal_check(Settings(privacy={"train_on_personal": True})) is None
    assert personal_check(Settings(privacy={"scrub": []})) is None


def test_a_finder_that_does_not_exist_stops_the_trainer() -> None:
    with pytest.raises(SettingsError, match="nobody"):
        personal_check(Settings(privacy={"scrub": ["nobody"]}))


def test_a_call_that_could_not_be_looked_at_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Scrubber, transition: object) -> bool:
        raise ScrubError("a finder of [privacy] scrub failed: RuntimeError")

    monkeypatch.setattr(Scrubber, "has_personal", fail)
    batch = sorted_out(saying("t1"), is_personal=personal_check(Settings()))
    assert batch.excluded == {Exclusion.PERSONAL: 1}
