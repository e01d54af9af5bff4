"""How the cost of explaining grows: with classes, images, their side, and the network's depth.

`python -m benchmarks.growth` compiles the forward pass, the gradient and Excitation Backprop at the
image for growing sizes and prints FLOPs and temporary memory, and with ``--repeat N`` the median
time of N calls of those that ``--memory`` holds, with the exponent of the power law that fits each
column best (the last two thirds of it, where what does not grow weighs less). Classes that do not
fit into one chunk are a loop, of which XLA counts one turn. Nothing but the output may grow faster
than the forward pass.
"""

from __future__ import annotations

import argparse
import functools

import jax
import numpy as np

import jaxplain
from benchmarks.speed import Built, counts, seconds

METHODS = {
    "forward": lambda network, x, targets: network(x),
    "gradient": jaxplain.gradient,
    "MWP": functools.partial(jaxplain.excitation_backprop, layer="input"),
}
#: What grows, and how far.
SIZES = {
    "classes": (1, 3, 10, 30, 100, 300, 1000),
    "batch": (1, 4, 16, 64, 256),
    "side": (64, 128, 256, 512, 1024),
}
#: Layers with weights of the ResNets, which grow in depth.
DEPTHS = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101", 152: "resnet152"}
UNITS = {"flops": ("GFLOPs", 1e9), "bytes": ("MB", 1e6), "seconds": ("ms", 1e-3)}


def exponent(sizes: list[int], values: list[float]) -> float:
    """Of the power law that fits best, in the logarithms."""
    known = [(n, v) for n, v in zip(sizes, values, strict=True) if not np.isnan(v)]
    known = known[len(known) // 3 :]
    if len(known) < 2:
        return float("nan")
    return float(np.polyfit(*np.log(known).T, 1)[0])


def table(name: str, what: str, sizes: list[int], repeat: int, memory: float) -> str:
    """The costs of each method as what is named grows, as Markdown."""
    found: dict[tuple[str, str], list[float]] = {}
    network = None if what == "depth" else Built(name)
    for size in sizes:
        built = network or Built(DEPTHS[size])
        given = {} if what == "depth" else {what: size}
        calls = {}
        for method, function in METHODS.items():
            program, arguments = built.compile(function, **given)
            for key, value in counts(program).items():
                found.setdefault((method, key), []).append(value)
            if repeat and found[method, "bytes"][-1] <= memory:
                calls[method] = functools.partial(program, *arguments)
        taken = seconds(calls, repeat)
        for method in METHODS if repeat else ():
            found.setdefault((method, "seconds"), []).append(taken.get(method, float("nan")))
    head = "".join(f" {method}, {UNITS[key][0]} |" for method, key in found)
    lines = [f"| {what} |{head}", f"| ---: |{' ---: |' * len(found)}"]
    for i, size in enumerate(sizes):
        cells = (f" {values[i] / UNITS[key][1]:,.1f} |" for (_, key), values in found.items())
        lines.append(f"| {size} |{''.join(cells)}".replace(" nan ", " - "))
    cells = (f" {exponent(sizes, values):.2f} |" for values in found.values())
    return "\n".join([*lines, f"| exponent |{''.join(cells)}".replace(" nan ", " - ")])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="resnet50", help="default: %(default)s")
    parser.add_argument("--axes", nargs="+", default=[*SIZES, "depth"], choices=[*SIZES, "depth"])
    parser.add_argument("--largest", type=int, default=10**9, help="leaves larger sizes out")
    parser.add_argument("--repeat", type=int, default=0, help="timed calls; 0 times nothing")
    parser.add_argument("--memory", type=float, default=12, help="GB, for calls; default: 12")
    given = parser.parse_args(arguments)
    print(f"{given.network}, jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for what in given.axes:
        every = DEPTHS if what == "depth" else SIZES[what]
        sizes = [size for size in every if size <= given.largest]
        found = table(given.network, what, sizes, given.repeat, 1e9 * given.memory)
        print(f"\n{found}", flush=True)


if __name__ == "__main__":
    main()
