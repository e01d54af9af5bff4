"""`jaxplain evaluate pointing`: the pointing game (Zhang et al. 2018, section 6.1)."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.explainers.catalogue import METHODS

#: The methods of Zhang et al. 2018, Table 1. "Deconv" there is guided backprop's rule.
_METHODS = ("gradient", "guided-backprop", "lrp", "cam", "mwp", "c-mwp")


def _run(arguments: argparse.Namespace) -> common.Result:
    from jaxplain import data, evaluation

    source, indices = common.open_data(arguments)
    # Dense layers slide over the whole image, and the score map spreads the signal (section
    # 6.1.1).
    network = common.load_network(arguments, fully_convolutional=True)
    config = network.config
    methods = {
        METHODS[name].title: evaluation.pointing_game.PointingMethod(explain, METHODS[name].blurred)
        for name, explain in common.explainers(arguments, network, fully_convolutional=True).items()
    }
    table = evaluation.pointing_game.pointing_game(
        source,
        common.Aspect(arguments, config),
        lambda pixels: data.normalise(pixels, config),
        common.cues(source, config),
        methods,
        batch_size=arguments.batch_size,
        indices=indices,
        workers=arguments.workers,
        progress=common.progress(len(indices)),
    )
    title = f"Pointing game: {config.name} on {source.name}"
    return common.Result(title, table, lambda: _draw(table, title))


def _draw(table: Any, title: str) -> Any:
    """Accuracy a class and method, as dots: the figure of the paper's supplement."""
    from matplotlib.figure import Figure

    trials = table.results["Center"][0].trials
    rows = [i for i in range(len(table.class_names)) if trials[i]]
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    markers = "x.osD^v<>Pp*hH8d"
    for k, (name, (everything, _)) in enumerate(table.results.items()):
        label = f"{name} ({100 * float(everything.mean):.1f})"
        axes.plot(
            [100 * float(everything.per_class[i]) for i in rows],
            range(len(rows)),
            markers[k % len(markers)],
            label=label,
            alpha=0.8,
        )
    axes.set_yticks(range(len(rows)), [f"{table.class_names[i]} ({int(trials[i])})" for i in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel("accuracy (%); in brackets: number of questions, mean over classes")
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


PROTOCOL = common.Protocol(
    name="pointing",
    help="the pointing game (Zhang et al. 2018, section 6.1)",
    description="The pointing game: is the maximum of a class's map on an object of the class, "
    "or less than 15 pixels from it? Prints mean accuracy over classes, for all questions and "
    "for the difficult ones.",
    methods=_METHODS,
    run=_run,
    options=functools.partial(common.add_aspect, short=224),
)
