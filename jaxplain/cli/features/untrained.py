"""`jaxplain pfv untrained`: the trained network beside itself with random weights."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.common import check_output, extra, load_model
from jaxplain.cli.features import common
from jaxplain.cli.progress import Bar
from jaxplain.explanation import drawing


def add_options(parser: argparse.ArgumentParser) -> None:
    common.add_images(parser, "+", "image files and folders of images")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the weights; default: %(default)s"
    )
    common.add_picture(parser, "untrained.png")


def run(arguments: argparse.Namespace) -> None:
    choice = common.own_choice(arguments)
    check_output(arguments.output)
    with extra("viz"):
        from jaxplain import viz
    import numpy as np

    from jaxplain import models
    from jaxplain.core import Table
    from jaxplain.evaluation.studies.features import untrained_similarity

    photos = common.read(arguments.images)
    network: Any = load_model(arguments)
    x = common.inputs(network, photos.values())
    visualise = common.visualiser(network, choice)
    random = common.visualiser(models.untrained(network, arguments.seed), choice)
    rows: drawing.Rows = {}
    shown, alike = {}, []
    with Bar("images") as progress:
        for i, (name, photo) in enumerate(photos.items()):
            one, other = visualise(x[i : i + 1]), random(x[i : i + 1])
            similarity = float(untrained_similarity(one, other))
            alike.append((name, similarity))
            shown[name] = drawing.thumbnail(photo)
            rows[name] = {
                title: viz.feature_overlay(
                    shown[name], np.asarray(found.colours[0], np.float32), strength=1.0
                )
                for title, found in (("trained", one), (f"untrained ({similarity:.2f})", other))
            }
            progress(i + 1, len(photos))
    print("What both have in common, 0 to 1:\n")
    print(Table(alike, ["image", "similarity"], form=".3f").markdown())
    common.save(viz.panel(shown, rows), arguments.output)
