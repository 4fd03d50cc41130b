"""The delivery probe: what is served must be what was trained."""

import pytest

from trainer.delivery.probe import compare, tolerance_for
from trajectories.errors import AdapterError
from trajectories.resources import Probe, ProbeSet

PROBES = ProbeSet(
    dtype="float32",
    probes=(
        Probe(
            prompt_token_ids=(1,),
            token_ids=(2, 3),
            logprobs=(-1.0, -2.0),
            base_logprobs=(-3.0, -2.5),
        ),
    ),
)
ADAPTER, BASE = [[-1.0, -2.0]], [[-3.0, -2.5]]


def test_served_as_trained_passes_and_is_measured() -> None:
    delivery = compare(PROBES, [[-1.0, -2.00001]], BASE, 1e-3)
    assert delivery.adapter_error == pytest.approx(1e-5)
    assert delivery.trained_shift == 1.25


@pytest.mark.parametrize(
    ("adapter", "base", "sentence"),
    [
        (BASE, BASE, "serves the base model under the adapter's name"),
        ([[-1.0, -2.2]], BASE, "does not serve the adapter as trained"),
        ([[-1.0, float("nan")]], BASE, "does not serve the adapter as trained"),
        (ADAPTER, [[-3.0, -1.0]], "base model is not the one trained on"),
    ],
)
def test_what_differs_is_refused(
    adapter: list[list[float]], base: list[list[float]], sentence: str
) -> None:
    with pytest.raises(AdapterError, match=sentence):
        compare(PROBES, adapter, base, 1e-3)


def test_the_base_under_the_adapters_name_is_seen_even_below_a_wide_tolerance() -> None:
    wide = PROBES.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(AdapterError, match="serves the base model"):
        compare(wide, BASE, BASE, 3.0)


def test_training_that_changed_nothing_needs_to_show_nothing() -> None:
    [probe] = PROBES.probes
    same = PROBES.model_copy(
        update={"probes": (probe.model_copy(update={"logprobs": probe.base_logprobs}),)}
    )
    compare(same, BASE, BASE, 1e-3)


def test_the_tolerance_follows_the_dtype_unless_it_is_set() -> None:
    assert tolerance_for("float32", 0.0) == 1e-3
    assert tolerance_for("bfloat16", 0.0) == 0.3
    assert tolerance_for("bfloat16", 0.1) == 0.1
