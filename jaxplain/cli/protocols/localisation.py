"""`jaxplain evaluate localisation`: dominant objects (Zhang et al. 2018, section 6.2)."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import load_model
from jaxplain.cli.options import add_held_out
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def prepared(
    arguments: argparse.Namespace, progress: Bar
) -> tuple[Any, Any, datasets.Methods, str, Any]:
    """(questions, preprocessing, methods, subject, network): what both localisations begin with."""
    from jaxplain import data
    from jaxplain.evaluation.studies.questions import Questions

    source, indices = datasets.open_data(arguments)
    network = load_model(arguments)
    config = network.config
    asked = Questions(
        source,
        datasets.Stretched(config),
        datasets.cues(source, config),
        batch_size=arguments.batch_size,
        indices=indices,
        workers=arguments.workers,
        progress=progress,
    )
    return (
        asked,
        lambda pixels: data.normalise(pixels, config),
        datasets.prepared(arguments, network),
        f"{config.name} on {source.name}",
        network,
    )


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import localisation as study

    asked, to_input, methods, where, _ = prepared(arguments, progress)
    count = len(asked.indices)
    held_out = max(1, count // 10) if arguments.held_out is None else arguments.held_out
    chosen_on = study.held_out_images(count, held_out)
    report = study.dominant_objects(asked, to_input, methods, chosen_on)
    return report.about(where).without(methods.left_out)


PROTOCOL = Protocol(
    name="localisation",
    help="localisation of dominant objects (Zhang et al. 2018, section 6.2)",
    description="Dominant objects: does the tightest box around the pixels above alpha times the "
    "mean of the map overlap with an object of the class by an IoU of at least 0.5? Each method's "
    "alpha is chosen on images that are held out.",
    methods=("gradient", "guided-backprop", "lrp", "cam", "feedback", "c-mwp", "mwp"),
    run=_run,
    options=functools.partial(add_held_out, what="alpha"),
)
