"""What explaining costs: FLOPs and temporary memory of compiled programs, and their time.

`python -m benchmarks.speed RESULT.json` compiles each method on VGG-16, ResNet-50, GoogLeNet and
ViT-S/16, for one image of 224 x 224 and with random weights, and writes what XLA counts, leaving
out methods that a network does not allow; with ``--repeat N`` also the median of N timed calls, in
which the programs take turns. `--beside EARLIER.json` prints both as a table: run it with each of
two versions of jaxplain, on one machine. FLOPs and memory are exact; times wobble.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxplain
from jaxplain.models.entries import find

#: Seconds from which on a call is not repeated.
LONG = 10.0
NETWORKS = ("vgg16", "resnet50", "bvlc_googlenet", "vit_small_patch16_224")


def programs(last: str) -> dict[str, tuple[Callable, int]]:
    """Method and number of classes, by what it is called."""
    mwp = functools.partial(jaxplain.excitation_backprop, layer="input")
    return {
        "forward": (lambda network, x, targets: network(x), 1),
        "gradient": (jaxplain.gradient, 1),
        "gradient, 10 classes": (jaxplain.gradient, 10),
        "gradient, 1000 classes": (jaxplain.gradient, 1000),
        "Grad-CAM": (functools.partial(jaxplain.grad_cam, layer=last), 1),
        "MWP": (mwp, 1),
        "c-MWP": (functools.partial(mwp, contrastive=True), 1),
        "MWP, 10 classes": (mwp, 10),
        "MWP, 1000 classes": (mwp, 1000),
        "LRP": (jaxplain.lrp, 1),
        "feedback, 3 sweeps": (functools.partial(jaxplain.feedback, steps=3), 1),
        "FullGrad": (jaxplain.full_grad, 1),
    }


class Built:
    """A network of random weights; ``last`` is the layer of its class activation maps."""

    def __init__(self, name: str, dtype: Any = None):
        entry = find(name)
        network = entry.build(entry.outputs, dtype=dtype, rngs=nnx.Rngs(0))
        self.graph, self.weights = nnx.split(network)
        self.last = entry.config.layer("last") or ""
        self.dtype = dtype or jnp.float32

    def compile(
        self, function: Callable, classes: int = 1, batch: int = 1, side: int = 224
    ) -> tuple[Any, tuple]:
        """The compiled program of ``function(network, images, targets)``, and its arguments."""
        x = jax.random.normal(jax.random.key(0), (batch, side, side, 3), self.dtype)
        targets = jnp.zeros(batch, jnp.int32)
        if classes > 1:
            targets = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32), (batch, classes))

        def program(weights: Any, x: jax.Array, targets: jax.Array) -> Any:
            return function(nnx.merge(self.graph, weights), x, targets)

        arguments = self.weights, x, targets
        return jax.jit(program).lower(*arguments).compile(), arguments


def seconds(calls: dict[str, Callable], repeat: int) -> dict[str, float]:
    """Medians of calls that take turns; of one that takes over `LONG` seconds the first counts."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeat + 1):
        for name, call in calls.items():
            if turn and taken[name][0] > LONG:
                continue
            start = time.perf_counter()
            jax.block_until_ready(call())
            taken[name].append(time.perf_counter() - start)
    # The first warms up.
    return {name: statistics.median(times[1:] or times) for name, times in taken.items()}


def counts(program: Any) -> dict[str, float]:
    """What XLA counts of a compiled program."""
    return {
        "flops": float(program.cost_analysis()["flops"]),
        "bytes": float(program.memory_analysis().temp_size_in_bytes),
    }


def measure(name: str, chosen: list[str], repeat: int) -> dict[str, dict[str, float]]:
    """FLOPs, bytes and seconds of a network's programs."""
    rows, calls, network = {}, {}, Built(name)
    for method, (function, classes) in programs(network.last).items():
        if chosen and method not in chosen:
            continue
        try:
            program, arguments = network.compile(function, classes)
        except (jaxplain.UnsuitableNetworkError, jaxplain.UnsupportedOperationError) as refusal:
            print(f"{name}, {method}: {refusal}", flush=True)
            continue
        rows[method] = counts(program)
        print(f"{name}, {method}: {rows[method]}", flush=True)
        if classes < 1000:
            calls[method] = functools.partial(program, *arguments)
    if repeat:
        for method, median in seconds(calls, repeat).items():
            rows[method]["seconds"] = median
    return rows


def table(before: dict, after: dict) -> str:
    """Both as Markdown."""
    lines = [
        "| network | method | GFLOPs | | temporary memory, MB | | time, ms | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| | | before | after | before | after | before | after |",
    ]
    for name, rows in after.items():
        for method, row in rows.items():
            old = before.get(name, {}).get(method, {})
            cells = [
                f"{part[key] / unit:,.{digits}f}" if key in part else "-"
                for key, unit, digits in (
                    ("flops", 1e9, 1),
                    ("bytes", 1e6, 0),
                    ("seconds", 1e-3, 0),
                )
                for part in (old, row)
            ]
            lines.append(f"| {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--beside", type=Path, help="an earlier result: prints the table of both")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--repeat", type=int, default=0)
    given = parser.parse_args(arguments)
    found = {name: measure(name, given.methods, given.repeat) for name in given.networks}
    given.result.write_text(json.dumps(found, indent=1))
    if given.beside:
        print(table(json.loads(given.beside.read_text()), found))


if __name__ == "__main__":
    main()
