"""FLOPs of the explainers relative to one forward pass, as XLA counts them.

`python -m benchmarks.flops` compiles each explainer for one image of 224 x 224 and prints
`compiled.cost_analysis()["flops"]` over that of the network alone; `--markdown` prints the
table of docs/benchmarks.md. Nothing is executed and no weights are made.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import jaxplain
from benchmarks.shaped import RESNET50, VGG16, VIT_SMALL, Network

CLASSES = 10  # of the many-class row


@dataclass(frozen=True)
class Row:
    """One measured program: its FLOPs, and their ratio to the forward pass."""

    name: str
    flops: float
    ratio: float


def _flops(network: Network, function: Callable, *, targets: tuple[int, ...] = (1,)) -> float:
    x = jax.ShapeDtypeStruct((1, *network.image), jnp.float32)
    t = jax.ShapeDtypeStruct(targets, jnp.int32)

    def program(parameters, x, targets):
        return function(lambda image: network.apply(parameters, image), x, targets)

    compiled = jax.jit(program).lower(network.parameters, x, t).compile()
    return float(compiled.cost_analysis()["flops"])


def programs(network: Network) -> dict[str, Callable[[], float]]:
    """What is measured, by name; each entry compiles one program and counts its FLOPs."""
    mwp = jaxplain.excitation_backprop
    middle, last = network.middle, network.last
    many = (1, CLASSES)

    def explained(method, **options):
        return lambda fn, x, targets: method(fn, x, targets, **options)

    composites = ("attn_lrp", "cp_lrp") if network is VIT_SMALL else ("epsilon", "gamma")
    relevance = {f"LRP {name}": explained(jaxplain.lrp, composite=name) for name in composites}
    first = f"LRP {composites[0]}"
    relevance_rows = {
        name: functools.partial(_flops, network, relevance[name]) for name in relevance
    }
    relevance_rows[f"{first}, {CLASSES} classes"] = functools.partial(
        _flops, network, relevance[first], targets=many
    )
    return {
        "forward": lambda: _flops(network, lambda fn, x, _: fn(x)),
        **relevance_rows,
        "gradient, input": lambda: _flops(network, explained(jaxplain.gradient, layer="input")),
        "MWP, input": lambda: _flops(network, explained(mwp, layer="input")),
        "c-MWP, input": lambda: _flops(network, explained(mwp, layer="input", contrastive=True)),
        f"MWP, input, {CLASSES} classes": lambda: _flops(
            network, explained(mwp, layer="input"), targets=many
        ),
        f"MWP, {middle}": lambda: _flops(network, explained(mwp, layer=middle)),
        f"Grad-CAM, {last}": lambda: _flops(network, explained(jaxplain.grad_cam, layer=last)),
    }


def measure(network: Network, names: Iterable[str] | None = None) -> dict[str, Row]:
    """Rows of `network` by name, all or those in `names`; "forward" is always measured."""
    table = programs(network)
    chosen = list(table) if names is None else ["forward", *names]
    rows: dict[str, Row] = {}
    for name in chosen:
        flops = table[name]()
        rows[name] = Row(name, flops, flops / (rows["forward"].flops if rows else flops))
    return rows


def _print(network: Network, rows: dict[str, Row], markdown: bool) -> None:
    if markdown:
        print(f"\n| {network.name} at 224 x 224 | GFLOPs | x forward |\n| --- | ---: | ---: |")
    else:
        print(f"\n{network.name} at 224 x 224, one image\n{'':26}{'GFLOPs':>10}{'x forward':>12}")
    for row in rows.values():
        giga = row.flops / 1e9
        if markdown:
            print(f"| {row.name} | {giga:.2f} | {row.ratio:.3f} |")
        else:
            print(f"{row.name:26}{giga:10.2f}{row.ratio:12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the table of the docs")
    arguments = parser.parse_args()
    start = time.perf_counter()
    for network in (VGG16, RESNET50, VIT_SMALL):
        _print(network, measure(network), arguments.markdown)
    if not arguments.markdown:
        print(f"\njax {jax.__version__}, {time.perf_counter() - start:.0f} s of compilation")


if __name__ == "__main__":
    main()
