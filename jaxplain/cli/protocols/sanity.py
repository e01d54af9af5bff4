"""`jaxplain evaluate sanity`: parameter randomisation (Adebayo et al. 2018)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import CliError, load_model
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol
from jaxplain.explainers.catalogue import METHODS

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    import jax
    from flax import nnx

    from jaxplain.evaluation.studies import sanity as study

    source, indices = datasets.open_data(arguments)
    network: Any = load_model(arguments)
    config = network.config
    if not isinstance(network, nnx.Module):
        raise CliError(
            f"sanity randomises the layers of Flax NNX networks, and {config.name} is none"
        )
    x, failures = datasets.read_images(source, indices, config, arguments)
    prepared = datasets.prepared(arguments, network)
    methods = {
        title: functools.partial(_evidence, method.explain, METHODS[method.choice.name].style)
        for title, method in prepared.items()
    }
    layers = arguments.layers and [name.strip() for name in arguments.layers.split(",")]
    layers = layers or study.top_modules(network, x[:1])
    report = study.randomisation_study(
        network,
        x,
        methods,
        jax.random.key(arguments.seed),
        layers=layers,
        batch_size=arguments.batch_size,
        progress=progress,
    )
    about = f"{config.name} on {source.name}"
    return report.about(about, failures).without(prepared.left_out)


def _evidence(explain: Callable, style: str, network: Any, x: Any, classes: Any) -> Any:
    """Maps that are drawn as heat count where they are positive, others by their size."""
    import jax.numpy as jnp

    maps = explain(network, x, classes)
    return jnp.maximum(maps, 0) if style == "heat" else jnp.abs(maps)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layers",
        metavar="A,B,C",
        help="submodules to randomise, in this order; "
        "default: the topmost ones, from the output down",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


PROTOCOL = Protocol(
    name="sanity",
    help="do maps depend on the parameters? (Adebayo et al. 2018)",
    description="Parameter randomisation: how alike are a method's maps for the trained network "
    "and for one with random parameters, layer by layer from the top (cascading) and one layer "
    "at a time (independent)? By rank correlation, SSIM and histograms of gradients.",
    methods=("gradient", "guided-backprop", "grad-cam", "guided-grad-cam", "lrp", "mwp", "c-mwp"),
    run=_run,
    options=_options,
    limit=16,
    unit="randomised networks",
)
