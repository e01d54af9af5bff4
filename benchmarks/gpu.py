"""Maps per second on an accelerator, the share of its peak, and what is in the compiled program.

`python -m benchmarks.gpu --peak float32=67e12,tf32=495e12,bfloat16=989e12` measures the methods on
each network, batch and precision, in which the programs take turns, and prints a table: maps per
second, time over the forward pass's, the same over the ratio of FLOPs (what pools, elementwise
operations and memory cost beyond the arithmetic), the share of the card's peak, temporary memory,
and how many transposes, conversions and scatters the program has. ``--peak`` are the card's dense
FLOPs per second, from its data sheet.

No figures of a GPU have been measured with it so far: none was at hand. It is tested on a CPU.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxplain
from benchmarks.speed import Built, counts, seconds

#: Precision -> what the network computes in, and what a product of float32 numbers is computed in.
PRECISIONS = {
    "float32": (None, "highest"),
    "tf32": (None, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}
CENSUS = ("transpose", "copy", "convert", "scatter", "select-and-scatter", "reverse", "while")


def methods(last: str, classes: list[int]) -> dict[str, tuple[Callable, int]]:
    """Method and number of classes, by name."""
    found: dict[str, tuple[Callable, int]] = {"forward": (lambda n, x, targets: n(x), 1)}
    explainers = {
        "gradient": jaxplain.gradient,
        "Grad-CAM": functools.partial(jaxplain.grad_cam, layer=last),
        "c-MWP": functools.partial(jaxplain.excitation_backprop, layer="input", contrastive=True),
        "LRP epsilon": jaxplain.lrp,
        "LRP gamma": functools.partial(jaxplain.lrp, composite="gamma"),
    }
    for k in classes:
        for name, function in explainers.items():
            found[name if k == 1 else f"{name}, {k} classes"] = function, k
    return found


def census(text: str) -> dict[str, int]:
    """How often each of the operations that cost without computing is in a compiled program."""
    return {name: len(re.findall(rf"\s{name}\(", text)) for name in CENSUS}


def rows(
    name: str, precision: str, batch: int, side: int, classes: list[int], repeat: int, peak: float
) -> list[str]:
    """The lines of the table for one network, precision and batch."""
    dtype, product = PRECISIONS[precision]
    network = Built(name, dtype)
    programs, calls, asked = {}, {}, methods(network.last, classes)
    with jax.default_matmul_precision(product):
        for method, (function, k) in asked.items():
            program, arguments = network.compile(function, k, batch, side)
            programs[method] = program
            calls[method] = functools.partial(program, *arguments)
    taken = seconds(calls, repeat)
    whole = counts(programs["forward"])
    lines = []
    for method, program in programs.items():
        cost, time = counts(program), taken[method]
        over = time / taken["forward"]
        found = census(program.as_text())
        cells = [
            *(name, precision, batch, method),
            f"{batch * asked[method][1] / time:,.0f}",
            f"{over:.2f}",
            f"{over / (cost['flops'] / whole['flops']):.2f}",
            f"{cost['flops'] / time / peak:.1%}" if peak else "-",
            f"{cost['bytes'] / 1e6:,.0f}",
            " ".join(f"{count} {what}" for what, count in found.items() if count),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["vgg16", "resnet50", "bvlc_googlenet"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64, 256])
    parser.add_argument("--classes", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--peak", default="", metavar="PRECISION=FLOPS,...")
    given = parser.parse_args(arguments)
    peaks = dict(part.split("=") for part in given.peak.split(",") if part)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}\n")
    print(
        "| network | precision | batch | method | maps/s | over forward | over FLOPs | of peak |",
        end="",
    )
    print(" MB | in the program |\n|" + " --- |" * 10)
    for name in given.networks:
        for precision in given.precisions:
            for batch in given.batches:
                sizes = batch, given.side, given.classes, given.repeat
                for line in rows(name, precision, *sizes, float(peaks.get(precision, 0))):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
