"""Measurements of jaxplain's cost; `python -m benchmarks.flops` prints the table of the docs."""
