"""SFT and then GRPO in one round: what each sees, what it leaves, and a kill in between."""

import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from trainer.algorithms.protocol import Asks, NothingToLearn
from trainer.algorithms.sequence import Chosen, taken
from trainer.batch.samples import Sample
from trainer.runs import PROGRESS, RunDirectory
from trajectories.resources import ProbeSet

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # the training stack's own

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import TrainerCallback

    from tests.trainer.rounds import a_plan, a_run, mean_logprob, said_by
    from tests.trainer.tiny_model import save_base
    from trainer.algorithms.grpo import LoggedGRPOTrainer
    from trainer.policy import load_policy
    from trainer.round import last_checkpoint, train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return said_by(base)


def probes_of(trained: Path) -> list[float]:
    probes = ProbeSet.from_json((trained / "probe.json").read_bytes()).probes
    return [value for probe in probes for value in probe.logprobs]


def test_each_leg_takes_what_it_asked_for(samples: list[Sample]) -> None:
    chance = random.Random(1)
    mixed = [
        sample.model_copy(
            update={"version": chance.randrange(9), "has_ratio": chance.random() < 0.5}
        )
        for sample in samples
    ]
    positives = taken(mixed, Asks(above=0.0), current=8)
    assert [s.id for s in positives] == [s.id for s in mixed if s.reward > 0]
    fresh = taken(mixed, Asks(needs_ratio=True, max_staleness=3), current=8)
    assert list(fresh) == [s for s in mixed if s.has_ratio and s.version >= 5]
    assert list(fresh[1:]) == list(fresh)[1:]
    assert isinstance(fresh[1:], Chosen)
    assert taken(mixed, Asks(), current=8) is mixed


@dataclass
class Whole:
    """A round of both, once for all."""

    directory: RunDirectory
    metrics: dict[str, float]
    held_against: set[float]  # every behaviour logprob that GRPO's loss saw


@pytest.fixture(scope="module")
def whole(base: Path, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    seen: set[float] = set()
    original = LoggedGRPOTrainer._compute_loss

    def note(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        seen.update(inputs["behaviour"].flatten().tolist())
        return original(self, model, inputs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(LoggedGRPOTrainer, "_compute_loss", note)
        directory = a_run(
            tmp_path_factory.mktemp("whole") / "run", a_plan(base, "sft+grpo"), samples
        )
        return Whole(directory, train(directory), seen)


def test_a_round_of_two_legs_has_the_metrics_of_both(whole: Whole) -> None:
    metrics = whole.metrics
    assert (metrics["sft/steps"], metrics["grpo/steps"], metrics["steps"]) == (2, 4, 6)
    assert (metrics["sft/samples"], metrics["grpo/samples"], metrics["samples"]) == (8, 16, 16)
    assert metrics["sft/loss"] != metrics["grpo/loss"]
    assert metrics["behaviour_gap"] < 1e-4
    assert "grpo/behaviour_gap" not in metrics, "it does not start as what sampled the rows"
    assert metrics["drift"] == metrics["grpo/drift"] > metrics["sft/drift"] > 0
    progress = orjson.loads((whole.directory.path / PROGRESS).read_bytes())
    assert progress["stage"] == "saving"


def test_the_second_leg_goes_on_from_the_first(
    whole: Whole, base: Path, samples: list[Sample]
) -> None:
    good = [s for s in samples if s.reward > 0]
    plan = a_plan(base, "sft")
    start, first, last = (
        mean_logprob(load_policy(plan.model_copy(update={"parent_path": path}))[0], good)
        for path in (
            None,
            str(whole.directory.path / "legs" / "0-sft"),
            str(whole.directory.trained),
        )
    )
    assert start + 0.1 < first < last - 0.05


def test_ratios_of_a_later_leg_are_against_what_was_recorded(
    whole: Whole, samples: list[Sample]
) -> None:
    recorded = sorted({value for s in samples for value in s.logprobs} | {0.0})
    assert sorted(whole.held_against) == pytest.approx(recorded)


def test_a_kill_in_the_second_leg_ends_where_an_unbroken_round_does(
    whole: Whole,
    base: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    class KillAt(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if args.output_dir.endswith("checkpoints-1") and state.global_step == 1:
                raise Killed

    broken = a_run(tmp_path / "broken", a_plan(base, "sft+grpo"), samples)
    monkeypatch.setattr("trainer.round.Divergence", KillAt)
    with pytest.raises(Killed):
        train(broken)
    monkeypatch.undo()
    over = broken.path / "legs" / "0-sft" / "adapter_model.safetensors"
    written = over.stat().st_mtime_ns
    assert last_checkpoint(broken.path / "checkpoints-1") is not None
    found = train(broken)
    assert over.stat().st_mtime_ns == written, "the first leg is not done twice"
    assert found.keys() == whole.metrics.keys()
    assert found["steps"] == whole.metrics["steps"]
    wanted = probes_of(whole.directory.trained)
    assert probes_of(broken.trained) == pytest.approx(wanted, abs=1e-4)


def test_a_leg_that_finds_nothing_is_passed_over_and_all_of_them_fail_the_round(
    base: Path, samples: list[Sample], tmp_path: Path
) -> None:
    bad = [s for s in samples if s.reward < 0]
    unlike = [s.model_copy(update={"reward": -1.0 + n / 10}) for n, s in enumerate(bad)]
    metrics = train(a_run(tmp_path / "run", a_plan(base, "sft+grpo"), unlike))
    assert (metrics["sft/steps"], metrics["sft/samples"]) == (0, 0)
    assert metrics["steps"] == metrics["grpo/steps"] > 0
    with pytest.raises(NothingToLearn, match=r"none of sft\+grpo found anything"):
        train(a_run(tmp_path / "alike", a_plan(base, "sft+grpo"), bad))
