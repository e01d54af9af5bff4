"""Measurements of jaxplain's cost; `python -m benchmarks.flops` prints what docs/benchmarks.md has."""
