"""The side-by-side benchmark of gateways: what `benchmarks/gateway.py` runs."""
