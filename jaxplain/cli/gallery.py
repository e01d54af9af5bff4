"""The command `jaxplain gallery`: a page of the maps of a data set."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jaxplain.cli import datasets, options
from jaxplain.cli.common import classes_of, extra, local_path
from jaxplain.cli.progress import Bar


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "gallery",
        help="make a page of the maps that explain-dataset has written",
        description="Makes a folder with a page of all maps of a run of explain-dataset, finished "
        "or not: thumbnails to sort and filter by class, score, whether predictions are right and "
        "maps point at the object, concentration and agreement. No server is needed: open its "
        "index.html in a browser.",
    )
    parser.add_argument(
        "maps", metavar="FOLDER|ADDRESS", help="where explain-dataset wrote its maps"
    )
    options.add_data(parser, "the data set that was explained, whose images are shown")
    options.add_classes(parser)
    options.add_number(parser, "--size", 448, "longest side of an image in full, in pixels")
    options.add_workers(parser)
    parser.add_argument(
        *("-o", "--output"),
        required=True,
        type=local_path,
        metavar="FOLDER",
        help="make this folder, which must not be there",
    )
    parser.set_defaults(command=_gallery)


def _gallery(arguments: argparse.Namespace) -> None:
    from jaxplain import data

    with extra("data"):
        found = data.open_maps(arguments.maps)
    split = found.settings.get("split") if arguments.split is None else arguments.split
    source = data.open_source(arguments.data, split, data_dir=arguments.data_dir)
    with extra("viz"), Bar("images") as progress:
        from jaxplain import page

        summary = page.gallery(
            arguments.maps,
            source,
            arguments.output,
            class_names=classes_of(arguments),
            size=arguments.size,
            workers=arguments.workers,
            progress=progress,
        )
    datasets.show_failures(summary.failures, "not shown")
    for sentence in summary.unknown:
        print(sentence, file=sys.stderr)
    print(
        f"{arguments.output / 'index.html'}: {summary.entries} maps of {summary.records} images; "
        "open it in a browser"
    )
