"""`jaxplain evaluate faithfulness`: insertion, deletion and pixel-flipping."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import load_model
from jaxplain.cli.options import add_number
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import faithfulness as study

    source, indices = datasets.open_data(arguments)
    network = load_model(arguments)
    config = network.config
    x, failures = datasets.read_images(source, indices, config, arguments)
    methods = datasets.prepared(arguments, network)
    report = study.faithfulness_study(
        network,
        x,
        methods,
        steps=arguments.steps,
        patch=arguments.patch,
        flips=arguments.flips,
        batch_size=arguments.batch_size,
        progress=progress,
    )
    about = f"{config.name} on {source.name}"
    return report.about(about, failures).without(methods.left_out)


def _options(parser: argparse.ArgumentParser) -> None:
    add_number(parser, "--steps", 56, "steps of insertion and deletion")
    add_number(parser, "--patch", 9, "side of the squares of pixel-flipping")
    add_number(parser, "--flips", 100, "how many squares are flipped")


PROTOCOL = Protocol(
    name="faithfulness",
    help="insertion, deletion and pixel-flipping (Petsiuk et al. 2018, Samek et al. 2017)",
    description="How does the score of the predicted class follow when pixels appear (insertion) "
    "or vanish (deletion, pixel-flipping) in the order of the map?",
    methods=("gradient", "guided-backprop", "grad-cam", "lrp", "mwp", "c-mwp"),
    run=_run,
    options=_options,
    limit=16,
    unit="batches",
)
