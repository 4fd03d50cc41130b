"""Table 2: one log, gone through eight times, by what is done about having changed since."""

import random
from collections.abc import Mapping
from dataclasses import replace

import torch

from benchmarks.estimator_bench.baselines import log_of, offsets
from benchmarks.estimator_bench.brain import Brain, accuracy
from benchmarks.estimator_bench.learner import Drill, Pupil, train
from benchmarks.estimator_bench.world import asked
from trainer.advantages.advantage import advantages
from trainer.algorithms import loss

ROWS, EPOCHS = 2048, 8
_BARE = loss.Objective(dual_clip=1e9, off_policy_threshold=None)

ARMS: Mapping[str, Drill] = {
    "none: ratio 1": Drill(is_uncorrected=True),
    "none, KL to the base 0.05": Drill(
        is_uncorrected=True, objective=replace(_BARE, kl_to_base=0.05)
    ),
    "proximal policy of each pass, weight <= 2": Drill(objective=replace(_BARE, is_decoupled=True)),
    "behaviour ratio, clipped": Drill(objective=_BARE),
    "the same, dual clip, off-policy mask": Drill(objective=loss.Objective()),
}


def run(drill: Drill, base: Brain, seed: int, *, rows: int = ROWS) -> dict[str, object]:
    """Accuracies before, and after each pass through the log."""
    torch.manual_seed(2000 + seed)
    questions = asked(rows, random.Random(f"corrections:{seed}"))
    samples = log_of(base, questions, 0, offsets("plain"))
    values = advantages(samples, shrinkage=4.0, negative_weight=1.0)
    pupil = Pupil.from_base(base)
    curve = [accuracy(pupil.brain)]
    for epoch in range(EPOCHS):
        # One round, looked at in between; only the decoupled one takes its proximal policy anew.
        start = None if drill.objective.is_decoupled else base
        train(pupil, samples, values, replace(drill, epochs=1), seed=epoch, start=start)
        curve.append(accuracy(pupil.brain))
    return {"curve": curve}
