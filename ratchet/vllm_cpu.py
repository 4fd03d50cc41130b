"""A vLLM plugin for its CPU build: base rows of a mixed batch get no adapter.

In a batch that mixes base and adapter requests, vLLM marks the base's rows with
adapter slot -1. Its GPU kernels skip them; the CPU ones (0.32) use the number
as an index, and torch reads -1 as the last slot. Once that slot has held an
adapter, the base model answers with foreign weights. Here those rows are set
to zero between the two halves of the product, so that nothing is added.

vLLM finds `register` by the entry point `vllm.general_plugins` and calls it in
each of its processes. On a GPU it does nothing.
"""

from typing import Any


def register() -> None:
    """Mend the CPU kernels; safe to call more than once."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    original = lora_ops.bgmv_shrink
    if getattr(original, "skips_base_rows", False):
        return

    def bgmv_shrink(
        inputs: Any, lora_a_weights: Any, output: Any, slots: Any, scaling: float = 1.0
    ) -> None:
        original(inputs, lora_a_weights, output, slots, scaling)
        output[slots < 0] = 0

    bgmv_shrink.skips_base_rows = True  # type: ignore[attr-defined]
    lora_ops.bgmv_shrink = bgmv_shrink
    punica_cpu.bgmv_shrink = bgmv_shrink
