"""`jaxplain evaluate phrases`: phrase localisation (Zhang et al. 2018, section 6.3)."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.options import add_aspect, add_held_out
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain import data
    from jaxplain.data.words import Words
    from jaxplain.evaluation.studies import phrases as study
    from jaxplain.evaluation.studies.localisation import held_out_images

    source, indices = datasets.open_data(arguments, images=arguments.images)
    table = None if arguments.words is None else _table(arguments.words)
    network = datasets.load_network(arguments, fully_convolutional=True)
    config = network.config
    words = Words(config.class_names, table)
    methods = datasets.prepared(arguments, network, fully_convolutional=True)
    held_out = max(1, len(indices) // 10) if arguments.held_out is None else arguments.held_out
    report = study.phrase_study(
        source,
        datasets.Aspect(arguments, config),
        lambda pixels: data.normalise(pixels, config),
        words,
        methods,
        held_out_images(len(indices), held_out),
        proposals=study.sliding_boxes
        if arguments.proposals is None
        else functools.partial(_proposed, arguments.proposals),
        indices=indices,
        workers=arguments.workers,
        progress=progress,
    )
    return report.about(f"{config.name} on {source.name}").without(methods.left_out)


def _table(path: Path) -> dict[str, list[int | str]]:
    """The user's table of words."""
    try:
        table = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(table, dict) or not all(
        isinstance(classes, list) and all(isinstance(c, (int, str)) for c in classes)
        for classes in table.values()
    ):
        raise ValueError(
            f'{path} must hold a JSON object of lists of classes: {{"man": ["groom", 981]}}'
        )
    return table


def _proposed(folder: Path, record: Any) -> Any:
    """The boxes of the file that bears the image's name."""
    import numpy as np

    for suffix in (".npy", ".csv", ".txt"):
        path = folder / f"{record.id}{suffix}"
        if not path.is_file():
            continue
        if suffix == ".npy":
            boxes = np.load(path, allow_pickle=False)
        else:
            boxes = np.loadtxt(path, delimiter="," if suffix == ".csv" else None, ndmin=2)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError(f"{path} must have one line per box: left, top, right, bottom")
        return boxes
    raise ValueError(f"{folder} has no proposals for the image {record.id} (.npy, .csv or .txt)")


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", required=True, metavar="FOLDER", help="the images of Flickr30k")
    add(
        "--words",
        type=Path,
        metavar="FILE",
        help='JSON of what words mean, as {"man": ["groom", 981]}; other words mean the classes '
        "that are named so",
    )
    add(
        "--proposals",
        type=Path,
        metavar="FOLDER",
        help="one file of boxes per image (.npy, .csv or .txt: left, top, right, bottom in "
        "0-based, half-open pixels); default: 289 sliding windows",
    )
    add_held_out(parser, "gamma")
    add_aspect(parser, short=300)


PROTOCOL = Protocol(
    name="phrases",
    help="phrase localisation on Flickr30k Entities (Zhang et al. 2018, section 6.3)",
    description="Are the boxes that a phrase of a caption means among the best that its map "
    "picks? The maps of its words are averaged, proposals scored by the sum in them over their "
    "area to the power of gamma, and thinned out. Prints recall at 1, 5 and 10 and average "
    "precision, for all phrases and for small instances.",
    methods=("gradient", "guided-backprop", "lrp", "cam", "mwp", "c-mwp"),
    run=_run,
    options=_options,
    data="folder of Flickr30k Entities (with Annotations and Sentences)",
    batch_size=None,
)
