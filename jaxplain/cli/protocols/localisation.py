"""`jaxplain evaluate localisation`: dominant objects (Zhang et al. 2018, section 6.2)."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.explainers.catalogue import METHODS


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any], Any]:
    """(questions, preprocessing, methods, title): what both localisation protocols begin with."""
    from jaxplain import data
    from jaxplain.evaluation.studies.questions import Questions

    source, indices = common.open_data(arguments)
    network = common.load_network(arguments)
    config = network.config
    asked = Questions(
        source,
        common.Stretched(config),
        common.cues(source, config),
        batch_size=arguments.batch_size,
        indices=indices,
        workers=arguments.workers,
        progress=common.progress(len(indices)),
    )
    explainers = common.explainers(arguments, network)
    methods = {METHODS[name].title: explain for name, explain in explainers.items()}
    return (
        asked,
        lambda pixels: data.normalise(pixels, config),
        methods,
        (f"{config.name} on {source.name}"),
    )


def _run(arguments: argparse.Namespace) -> common.Result:
    from jaxplain.evaluation.studies import localisation as study

    asked, to_input, methods, where = prepared(arguments)
    count = len(asked.indices)
    held_out = max(1, count // 10) if arguments.held_out is None else arguments.held_out
    table = study.dominant_objects(asked, to_input, methods, study.held_out_images(count, held_out))
    title = f"Localisation of dominant objects: {where}"
    return common.Result(title, table, lambda: _draw(table, title))


def _draw(table: Any, title: str) -> Any:
    """The held-out error over alpha, from which each method's alpha is chosen."""
    from matplotlib.figure import Figure

    from jaxplain.evaluation.localisation import ALPHAS

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, found in table.results.items():
        if found.held_out is None:
            continue
        hits, trials = found.held_out
        label = f"{name} (alpha {found.alpha:.1f}, test error {100 * found.error:.1f} %)"
        axes.plot(ALPHAS, [100 * (1 - h / trials) for h in hits], "o-", markersize=3, label=label)
    axes.set_xlabel("alpha: the threshold, in means of the map")
    axes.set_ylabel("error on the held-out images (%)")
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--held-out",
        type=int,
        metavar="N",
        help="images, drawn at random, on which alpha is chosen; default: a tenth",
    )


PROTOCOL = common.Protocol(
    name="localisation",
    help="localisation of dominant objects (Zhang et al. 2018, section 6.2)",
    description="Dominant objects: does the tightest box around the pixels above alpha times the "
    "mean of the map overlap with an object of the class by an IoU of at least 0.5? Each method's "
    "alpha is chosen on images that are held out.",
    methods=("gradient", "guided-backprop", "lrp", "cam", "feedback", "c-mwp", "mwp"),
    run=_run,
    options=_options,
)
