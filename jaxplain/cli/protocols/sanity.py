"""`jaxplain evaluate sanity`: parameter randomisation (Adebayo et al. 2018)."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.explainers.catalogue import METHODS, explainer


def _run(arguments: argparse.Namespace) -> common.Result:
    import jax

    from jaxplain.evaluation.studies import sanity as study

    source, indices = common.open_data(arguments)
    network = common.load_network(arguments)
    x, failures = common.read_images(source, indices, network.config, arguments)
    methods = {
        METHODS[name].title: functools.partial(
            _evidence, explainer(name, network.config, arguments.layer), METHODS[name].style
        )
        for name in arguments.methods
    }
    layers = arguments.layers and [name.strip() for name in arguments.layers.split(",")]
    layers = layers or study.top_modules(network, x[:1])
    found = study.randomisation_study(
        network,
        x,
        methods,
        jax.random.key(arguments.seed),
        layers=layers,
        batch_size=arguments.batch_size,
        progress=common.progress(len(layers) * len(study.MODES), "randomised networks"),
    )
    title = f"Parameter randomisation: {network.config.name} on {source.name}"
    table = dataclasses.replace(found, failures=failures)
    return common.Result(title, table, lambda: _draw(table, title))


def _evidence(explain: Callable, style: str, network: Any, x: Any, classes: Any) -> Any:
    """Maps that are drawn as heat count where they are positive, others by their size."""
    import jax.numpy as jnp

    maps = explain(network, x, classes)
    return jnp.maximum(maps, 0) if style == "heat" else jnp.abs(maps)


def _draw(table: Any, title: str) -> Any:
    """Similarity over the layers, from the top of the network down; a row of panels a mode."""
    from matplotlib.figure import Figure

    names = {"rank_correlation": "rank correlation", "ssim": "SSIM", "hog": "HOG similarity"}
    rows = len(table.similarity)
    figure = Figure(figsize=(12, 0.6 + 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, len(names), squeeze=False, sharex=True, sharey=True)
    markers = "osD^v<>x.Pp*hH8d"
    for line, (mode, methods) in zip(grid, table.similarity.items(), strict=True):
        for axes, (measure, label) in zip(line, names.items(), strict=True):
            for k, (name, found) in enumerate(methods.items()):
                axes.plot(
                    [1.0, *found[measure].mean(1)],
                    f"{markers[k % len(markers)]}-",
                    markersize=3.5,
                    linewidth=1.2,
                    label=name,
                )
            axes.set_title(f"{label}, {mode}", fontsize=10)
            axes.axhline(0, color="#888888", linewidth=0.7)
            axes.grid(alpha=0.3)
    for axes in grid[-1]:
        axes.set_xticks(
            range(len(table.layers) + 1), ["(trained)", *table.layers], rotation=90, fontsize=8
        )
    figure.suptitle(title)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9)
    return figure


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layers",
        metavar="A,B,C",
        help="submodules to randomise, in this order; "
        "default: the topmost ones, from the output down",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


PROTOCOL = common.Protocol(
    name="sanity",
    help="do maps depend on the parameters? (Adebayo et al. 2018)",
    description="Parameter randomisation: how alike are a method's maps for the trained network "
    "and for one with random parameters, layer by layer from the top (cascading) and one layer "
    "at a time (independent)? By rank correlation, SSIM and histograms of gradients.",
    methods=("gradient", "guided-backprop", "grad-cam", "guided-grad-cam", "lrp", "mwp", "c-mwp"),
    run=_run,
    options=_options,
    limit=16,
)
