"""`jaxplain pfv mistake`: a misclassified image beside correct ones of both classes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxplain.cli import options
from jaxplain.cli.common import CliError, extra, load_model, local_path, step
from jaxplain.cli.features import common
from jaxplain.explanation import drawing


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("failed", metavar="FAILED", type=local_path, help="the misclassified image")
    for flag, text in (("--true", "its class"), ("--mistaken", "the class it was taken for")):
        parser.add_argument(
            flag,
            nargs="+",
            required=True,
            type=local_path,
            metavar="IMAGE",
            help=f"correctly classified images of {text}, or a folder; the paper takes three",
        )
    options.add_output(
        parser, "write mistake.json, .md, .png and where.png there", default=Path("pfv-mistake")
    )


def run(arguments: argparse.Namespace) -> None:
    choice = common.own_choice(arguments)
    common.check_folder(arguments.output)
    with extra("viz"):
        from jaxplain import viz
    import numpy as np

    from jaxplain.evaluation.studies import features

    groups = {
        "failed": common.read([arguments.failed]),
        "true": common.read(arguments.true),
        "mistaken": common.read(arguments.mistaken),
    }
    if len(groups["failed"]) > 1:
        raise CliError(f"{arguments.failed} is a folder; name the one image that failed")
    network: Any = load_model(arguments)
    photos = [photo for group in groups.values() for photo in group.values()]
    x = common.inputs(network, photos)
    counts = [len(group) for group in groups.values()]
    with step("principal features"):
        report = features.misclassification_report(
            common.visualiser(network, choice), x[0], x[1 : 1 + counts[1]], x[1 + counts[1] :]
        ).about(network.config.name)
    shown = [drawing.thumbnail(photo) for photo in photos]
    names = [name for name, count in zip(groups, counts, strict=True) for _ in range(count)]
    tops = common.top_names(network, x)
    titles = [f"{group}\n{top}" for group, top in zip(names, tops, strict=True)]
    found = report.results
    shares = np.array([row.shares for row in report.table])
    colours = np.asarray(found.features.colours, np.float32)
    common.write(
        arguments, report, "mistake", viz.feature_panel(shown, colours, titles, shares=shares)
    )
    true = range(1, 1 + counts[1])
    misleading, missing = (
        f"{word}: component {k + 1}"
        for word, k in (("misleading", found.misleading), ("missing", found.missing))
    )
    where = {
        misleading: {tops[0]: viz.overlay(shown[0], found.where_misleading)},
        missing: {
            f"{i}: {tops[i]}": viz.overlay(shown[i], found.where_missing[i - 1]) for i in true
        },
    }
    viz.save(viz.panel(shown[0], where), arguments.output / "where.png")
    print(f"\nwrote {arguments.output}")
