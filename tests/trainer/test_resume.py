"""A round killed anywhere sees the same rows in the same steps, and ends with the same weights."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainer.batch.samples import Sample
from trainer.runs import PROGRESS, RunDirectory

pytest.importorskip("torch")
pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import Trainer, TrainerCallback

    from tests.trainer.logged_runs import logged_samples, write_run
    from tests.trainer.tiny_model import save_base
    from trainer.round import train

ROOT = Path(__file__).parents[2]
ROWS, STEPS = 11, 6  # 4 rows a step, 2 epochs
WEIGHTS = "adapter_model.safetensors"
ALGORITHMS = ("grpo", "sft")
EVENTS = ("on_step_begin", "on_step_end", "on_save", "on_train_end", "saving")

Seen = dict[int, list[str]]  # step -> the rows it was made of


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def samples(base: Path) -> list[Sample]:
    return logged_samples(base, ROWS)


@pytest.fixture(scope="module")
def unbroken(
    base: Path, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Seen, bytes]]:
    """What each algorithm sees and ends with when nobody disturbs it."""
    found = {}
    for algorithm in ALGORITHMS:
        run = write_run(tmp_path_factory.mktemp("runs") / "run", base, samples, algorithm)
        with watched() as seen:
            train(run)
        assert sorted(seen) == list(range(STEPS))
        found[algorithm] = seen, (run.trained / WEIGHTS).read_bytes()
    return found


@contextmanager
def watched(event: str = "", step: int = -1) -> Iterator[Seen]:
    """Note the rows of each step, and die at an event of a step where one is given."""
    seen: Seen = {}
    training_step, save_rng_state = Trainer.training_step, Trainer._save_rng_state

    def noting(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        rows = inputs if isinstance(inputs, list) else inputs["input_ids"].tolist()
        seen[self.state.global_step] = [str(row) for row in rows]
        return training_step(self, model, inputs, *rest)

    def dying(self: Any, path: str) -> None:
        if event == "saving" and self.state.global_step == step:
            raise Killed  # the weights of the checkpoint are there, and its state is not
        save_rng_state(self, path)

    class KillAt(TrainerCallback):  # type: ignore[misc]
        """In the place of the round's own callback that looks for NaN."""

    def kill(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            raise Killed

    if event.startswith("on_"):
        setattr(KillAt, event, kill)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", noting)
        patch.setattr(Trainer, "_save_rng_state", dying)
        if event:
            patch.setattr("trainer.round.Divergence", KillAt)
        yield seen


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    algorithm=st.sampled_from(ALGORITHMS),
    kills=st.lists(
        st.tuples(st.sampled_from(EVENTS), st.integers(0, STEPS)), min_size=1, max_size=2
    ),
)
@example(algorithm="grpo", kills=[("saving", 2), ("on_step_end", 4)])
@example(algorithm="sft", kills=[("on_step_begin", 3), ("on_train_end", STEPS)])
def test_kills_anywhere_change_neither_the_rows_nor_the_weights(
    algorithm: str,
    kills: list[tuple[str, int]],
    base: Path,
    samples: list[Sample],
    unbroken: dict[str, tuple[Seen, bytes]],
    tmp_path: Path,
) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    run = write_run(tmp_path / "run", base, samples, algorithm)
    whole, weights = unbroken[algorithm]
    together: Seen = {}
    for event, step in [*kills, ("", -1)]:
        with watched(event, step) as seen:
            with suppress(Killed):
                train(run)
        for number, rows in seen.items():
            assert rows == whole[number], "a step that is done again is made of the same rows"
        together |= seen
        if run.trained.exists():
            break  # the kill came at a point that this round never passes
    assert together == whole
    assert (run.trained / WEIGHTS).read_bytes() == weights


def test_a_real_kill_in_the_middle_ends_with_the_weights_of_an_unbroken_round(
    base: Path, samples: list[Sample], unbroken: dict[str, tuple[Seen, bytes]], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", base, samples, "grpo")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.round", str(run.path)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 120
    while steps_done(run) < 1 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if run.result() is None:
        train(run)
    assert (run.trained / WEIGHTS).read_bytes() == unbroken["grpo"][1]


def steps_done(run: RunDirectory) -> int:
    path = run.path / PROGRESS
    return int(orjson.loads(path.read_bytes())["step"]) if path.is_file() else 0
