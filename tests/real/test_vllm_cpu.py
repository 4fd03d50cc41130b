"""The plugin for vLLM's CPU build, against vLLM's own kernels, without a server."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

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


@pytest.mark.skipif("cpu" not in (vllm_version() or ""), reason="not vLLM's CPU build")
def test_a_base_row_beside_an_adapter_row_gets_no_adapter() -> None:
    """Were the first line to say 0.0, vLLM would have been mended and the plugin could go."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    said = [line for line in ran.stdout.splitlines() if line.startswith("with")]
    assert said == ["without 8.0 8.0", "with 0.0 8.0 0.0 8.0"]


def test_vllm_finds_the_plugin_where_ratchet_is_installed() -> None:
    found = entry_points(group="vllm.general_plugins")
    assert "ratchet.vllm_cpu:register" in {point.value for point in found}
