"""`jaxplain evaluate pointing`: the pointing game (Zhang et al. 2018, section 6.1)."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import load_model
from jaxplain.cli.options import add_aspect
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report

#: The methods of Zhang et al. 2018, Table 1. "Deconv" there is guided backprop's rule.
_METHODS = ("gradient", "guided-backprop", "lrp", "cam", "mwp", "c-mwp")


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain import data
    from jaxplain.evaluation.studies import pointing as study

    source, indices = datasets.open_data(arguments)
    # Dense layers slide over the whole image, and the score map spreads the signal (section
    # 6.1.1).
    network = load_model(arguments, fully_convolutional=True)
    config = network.config
    prepared = datasets.prepared(arguments, network, fully_convolutional=True)
    methods = {
        title: study.PointingMethod(method, method.choice.sparse)
        for title, method in prepared.items()
    }
    report = study.pointing_game(
        source,
        datasets.view(arguments, network),
        lambda pixels: data.normalise(pixels, config),
        datasets.cues(source, config),
        methods,
        batch_size=arguments.batch_size,
        indices=indices,
        workers=arguments.workers,
        progress=progress,
    )
    return report.about(f"{config.name} on {source.name}").without(prepared.left_out)


PROTOCOL = Protocol(
    name="pointing",
    help="the pointing game (Zhang et al. 2018, section 6.1)",
    description="The pointing game: is the maximum of a class's map on an object of the class, "
    "or less than 15 pixels from it? Prints mean accuracy over classes, for all questions and "
    "for the difficult ones.",
    methods=_METHODS,
    run=_run,
    options=functools.partial(add_aspect, short=224),
)
