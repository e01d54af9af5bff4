"""`jaxplain evaluate faithfulness`: insertion, deletion and pixel-flipping."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.explainers.catalogue import METHODS


def _run(arguments: argparse.Namespace) -> common.Result:
    from jaxplain.evaluation.studies import faithfulness as study

    source, indices = common.open_data(arguments)
    network = common.load_network(arguments)
    config = network.config
    x, failures = common.read_images(source, indices, config, arguments)
    explainers = common.explainers(arguments, network)
    methods = {METHODS[name].title: explain for name, explain in explainers.items()}
    found = study.faithfulness_study(
        network,
        x,
        methods,
        steps=arguments.steps,
        patch=arguments.patch,
        flips=arguments.flips,
        batch_size=arguments.batch_size,
        progress=common.progress(-(-len(x) // arguments.batch_size), "batches"),
    )
    title = f"Insertion, deletion and pixel-flipping: {config.name} on {source.name}"
    table = dataclasses.replace(found, failures=failures)
    return common.Result(title, table, lambda: _draw(table, title))


def _draw(table: Any, title: str) -> Any:
    """The three mean curves of every method."""
    from matplotlib.figure import Figure

    from jaxplain.evaluation.studies.faithfulness import RANDOM

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (curve, methods) in zip(figure.subplots(1, 3), table.scores.items(), strict=True):
        for name, scores in methods.items():
            style = {"color": "#888888", "linestyle": "--"} if name == RANDOM else {}
            axes.plot(100 * table.fractions[curve], scores.mean(0), label=name, **style)
        axes.set_title(curve.replace("_", "-"))
        axes.set_xlabel("changed (%)")
        axes.set_ylabel("logit" if curve == "pixel_flipping" else "probability")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--steps",
        type=int,
        default=56,
        metavar="N",
        help="steps of insertion and deletion; default: %(default)s",
    )
    add(
        "--patch",
        type=int,
        default=9,
        metavar="N",
        help="side of the squares of pixel-flipping; default: %(default)s",
    )
    add(
        "--flips",
        type=int,
        default=100,
        metavar="N",
        help="how many squares are flipped; default: %(default)s",
    )


PROTOCOL = common.Protocol(
    name="faithfulness",
    help="insertion, deletion and pixel-flipping (Petsiuk et al. 2018, Samek et al. 2017)",
    description="How does the score of the predicted class follow when pixels appear (insertion) "
    "or vanish (deletion, pixel-flipping) in the order of the map?",
    methods=("gradient", "guided-backprop", "grad-cam", "lrp", "mwp", "c-mwp"),
    run=_run,
    options=_options,
    limit=16,
)
