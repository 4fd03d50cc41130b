#!/usr/bin/env python3
"""Gateways side by side, and Ratchet among them with everything on: `make benchmark-gateway`.

    python benchmarks/gateway.py [--only ratchet,vllm-router] [--rounds 5] [--json FILE]

Installs the peers on first use, starts them all before one scripted upstream,
and measures in interleaved rounds. `--help` names the rest; docs/benchmarks.md
has the method and the last full run.
"""

import sys
from pathlib import Path

# As a script this file's folder is first on the path, where it would hide the package `gateway`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.gateway_bench.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
