"""The plugin for vLLM's CPU build, against vLLM's own kernels, without a server."""

import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from ratchet.demo.world import free_port
from ratchet.up import vllm_version

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

# A process of its own: importing vLLM takes seconds, warns, and the plugin changes its modules.
PROGRAM = """
import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from ratchet.vllm_cpu import register

def shrink(module):
    rows, adapters = torch.ones(2, 4), torch.ones(3, 1, 2, 4)
    out = torch.zeros(2, 2)
    module.bgmv_shrink(rows, adapters, out, torch.tensor([-1, 0]), 1.0)
    return out[0].abs().sum().item(), out[1].abs().sum().item()

print("without", *shrink(punica_cpu))
register()
register()
print("with", *shrink(punica_cpu), *shrink(lora_ops))
"""

TIED = """
import sys
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead, VocabParallelEmbedding)
from vllm.model_executor.model_loader.reload import inplace, record_metadata_for_reloading
from ratchet.vllm_cpu import register

class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = VocabParallelEmbedding(64, 32)
        self.head = ParallelLMHead(64, 32).tie_weights(self.embed)

    def load(self, weight):
        self.embed.weight.weight_loader(self.embed.weight, weight)

def is_stale_after_a_reload():
    model = Tied()
    record_metadata_for_reloading(model)
    model.load(torch.randn(64, 32))
    for layer in (model.embed, model.head):
        layer.quant_method.process_weights_after_loading(layer)
    weight, x = torch.randn(64, 32), torch.randn(3, 32)
    inplace.initialize_layerwise_reload(model)
    model.load(weight)
    inplace.finalize_layerwise_reload(model, None)
    said = model.head.quant_method.apply(model.head, x)
    return (said - x @ weight.T).abs().max().item() > 1e-3

with set_current_vllm_config(VllmConfig()):
    init_distributed_environment(1, 0, f"tcp://127.0.0.1:{sys.argv[1]}", 0, "gloo")
    initialize_model_parallel()
    print("without", is_stale_after_a_reload())
    register()
    register()
    print("with", is_stale_after_a_reload())
"""


@pytest.mark.skipif("cpu" not in (vllm_version() or ""), reason="not vLLM's CPU build")
def test_a_base_row_beside_an_adapter_row_gets_no_adapter() -> None:
    """Were the first line to say 0.0, vLLM would have been mended and the plugin could go."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    said = [line for line in ran.stdout.splitlines() if line.startswith("with")]
    assert said == ["without 8.0 8.0", "with 0.0 8.0 0.0 8.0"]


@pytest.mark.skipif("cpu" not in (vllm_version() or ""), reason="not vLLM's CPU build")
def test_an_output_layer_that_shares_the_embeddings_follows_them_through_a_reload() -> None:
    """Were the first line to say False, vLLM would have been mended and the plugin could go."""
    ran = subprocess.run(
        [sys.executable, "-c", TIED, str(free_port())],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TORCHDYNAMO_DISABLE": "1"},
    )
    said = [line for line in ran.stdout.splitlines() if line.startswith("with")]
    assert said == ["without True", "with False"]


def test_vllm_finds_the_plugin_where_ratchet_is_installed() -> None:
    found = entry_points(group="vllm.general_plugins")
    assert "ratchet.vllm_cpu:register" in {point.value for point in found}
