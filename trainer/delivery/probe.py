"""The delivery probe: does the engine serve the weights that were trained?

Token sequences with the trainer's own logprobs travel with the adapter. After
a load the engine is asked for the same tokens, under the adapter and under
the base. Two things must hold: the numbers agree, and where training made a
difference, serving shows it (vLLM can serve the base silently when module
names do not match). `compare` is pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.delivery.engine import Engine
from trajectories.errors import AdapterError
from trajectories.resources import Probe, ProbeSet

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3, "4bit": 0.5}  # the last: trained on, never served
# A mean shift below this cannot be told from arithmetic noise.
NOISE = {"float32": 1e-5, "bfloat16": 0.02}
LEAST_SHOWN_SHARE = 0.1

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far what is served is from what was trained, in nats."""

    adapter_error: float  # largest difference under the adapter
    base_error: float  # largest difference under the base
    trained_shift: float  # mean |adapter - base|, in the trainer
    served_shift: float  # the same, as served


def tolerance_for(kind: str, configured: float) -> float:
    """The setting `probe_tolerance`, where 0 means the default of a dtype, or of four bits."""
    return configured or TOLERANCE[kind]


def run_probe(
    engine: Engine, *, model: str, base_model: str, probe_set: ProbeSet, tolerance: float
) -> Delivery:
    """Ask one engine and compare; raises AdapterError when it serves something else."""
    adapter = [_ask(engine, model, probe) for probe in probe_set.probes]
    base = [_ask(engine, base_model, probe) for probe in probe_set.probes]
    return compare(probe_set, adapter, base, tolerance)


def compare(probe_set: ProbeSet, adapter: Rows, base: Rows, tolerance: float) -> Delivery:
    """Hold served logprobs against the trainer's."""
    if not probe_set.probes:
        raise AdapterError("the adapter carries no probes: nothing shows what it should answer")
    trained = [probe.logprobs for probe in probe_set.probes]
    trained_base = [probe.base_logprobs for probe in probe_set.probes]
    delivery = Delivery(
        adapter_error=max(differences(trained, adapter)),
        base_error=max(differences(trained_base, base)),
        trained_shift=mean(differences(trained, trained_base)),
        served_shift=mean(differences(adapter, base)),
    )
    if not delivery.base_error <= tolerance:
        raise AdapterError(
            f"the engine's base model is not the one trained on: logprobs differ by"
            f" {delivery.base_error:.3g} nats (tolerance {tolerance:g})"
        )
    is_visible = delivery.trained_shift > NOISE[probe_set.dtype]
    if is_visible and delivery.served_shift < LEAST_SHOWN_SHARE * delivery.trained_shift:
        raise AdapterError(
            "the engine serves the base model under the adapter's name: training moved the"
            f" logprobs by {delivery.trained_shift:.3g} nats on average, serving shows"
            f" {delivery.served_shift:.3g}"
        )
    if not delivery.adapter_error <= tolerance:
        raise AdapterError(
            f"the engine does not serve the adapter as trained: logprobs differ by"
            f" {delivery.adapter_error:.3g} nats (tolerance {tolerance:g})"
        )
    return delivery


def run_whole_probe(engine: Engine, *, model: str, probe_set: ProbeSet, tolerance: float) -> float:
    """The same where all weights changed: there is no base beside them to be asked.

    The largest difference; `base_logprobs` are those of the version before. Raises AdapterError.
    """
    served = [_ask(engine, model, probe) for probe in probe_set.probes]
    return compare_whole(probe_set, served, tolerance)


def compare_whole(probe_set: ProbeSet, served: Rows, tolerance: float) -> float:
    """Hold what is served against what was trained, and against what was served before."""
    if not probe_set.probes:
        raise AdapterError("the version carries no probes: nothing shows what it should answer")
    trained = [probe.logprobs for probe in probe_set.probes]
    former = [probe.base_logprobs for probe in probe_set.probes]
    error = max(differences(trained, served))
    trained_shift = mean(differences(trained, former))
    served_shift = mean(differences(served, former))
    is_visible = trained_shift > NOISE[probe_set.dtype]
    if is_visible and served_shift < LEAST_SHOWN_SHARE * trained_shift:
        raise AdapterError(
            "the engine serves the weights before: training moved the logprobs by"
            f" {trained_shift:.3g} nats on average, serving shows {served_shift:.3g}"
        )
    if not error <= tolerance:
        raise AdapterError(
            f"the engine does not serve the weights as trained: logprobs differ by {error:.3g}"
            f" nats (tolerance {tolerance:g})"
        )
    return error


def differences(left: Rows, right: Rows) -> list[float]:
    """|left - right| of every token; a NaN on either side is an infinite difference."""
    flat = [
        abs(a - b)
        for row, other in zip(left, right, strict=True)
        for a, b in zip(row, other, strict=True)
    ]
    return [float("inf") if value != value else value for value in flat]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ask(engine: Engine, model: str, probe: Probe) -> tuple[float, ...]:
    return engine.logprobs(model, probe.prompt_token_ids, probe.token_ids)
