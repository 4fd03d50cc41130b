"""A vLLM plugin for its CPU build: two things that its kernels (0.32) get wrong.

In a batch that mixes base and adapter requests, vLLM marks the base's rows with
adapter slot -1. Its GPU kernels skip them; the CPU ones use the number as an
index, and torch reads -1 as the last slot. Once that slot has held an adapter,
the base model answers with foreign weights. Here those rows are set to zero
between the two halves of the product, so that nothing is added.

Where the output layer shares the embeddings' weights, it has a packed copy of
them on a CPU, which a reload of all weights forgets: the new model would speak
through the old one's output layer. Here it is packed again.

vLLM finds `register` by the entry point `vllm.general_plugins` and calls it in
each of its processes. On a GPU it does nothing.
"""

from typing import Any


def register() -> None:
    """Mend the CPU kernels; safe to call more than once."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    skip_base_rows()
    pack_again()


def skip_base_rows() -> None:
    """Adapters for those rows alone that asked for one."""
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


def pack_again() -> None:
    """After a reload of all weights every output layer is packed from what it has now."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.model_executor.model_loader.reload import inplace

    original = inplace.finalize_layerwise_reload
    if getattr(original, "packs_again", False):
        return

    def finalize_layerwise_reload(model: Any, *arguments: Any, **more: Any) -> None:
        original(model, *arguments, **more)
        for layer in model.modules():
            method = getattr(layer, "quant_method", None)
            if isinstance(method, UnquantizedEmbeddingMethod) and hasattr(layer, "cpu_linear"):
                method.process_weights_after_loading(layer)

    finalize_layerwise_reload.packs_again = True  # type: ignore[attr-defined]
    inplace.finalize_layerwise_reload = finalize_layerwise_reload
