"""The command: ``python -m benchmarks.third_party``."""

from __future__ import annotations

import argparse
from pathlib import Path

import jax

from benchmarks.third_party.matrix import markdown, rows
from benchmarks.third_party.networks import NETWORKS, installed
from jaxplain.explainers.catalogue import CATALOGUE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.third_party", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=CATALOGUE, metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes most of the time
    cells = {}
    for name in args.only or installed():
        cells[name] = rows(name, args.methods or list(CATALOGUE))
        if args.output:
            args.output.write_text(markdown(cells), encoding="utf-8")
    if any(cell.state in ("wrong", "unchecked") for row in cells.values() for cell in row.values()):
        raise SystemExit("some cells are wrong or unchecked")


if __name__ == "__main__":
    main()
