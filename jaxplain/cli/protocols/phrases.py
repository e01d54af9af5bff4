"""`jaxplain evaluate phrases`: phrase localisation (Zhang et al. 2018, section 6.3)."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.explainers.catalogue import METHODS


def _run(arguments: argparse.Namespace) -> common.Result:
    from jaxplain import data
    from jaxplain.data.words import Words
    from jaxplain.evaluation.studies import phrases as study
    from jaxplain.evaluation.studies.localisation import held_out_images

    source, indices = common.open_data(arguments, images=arguments.images)
    table = None if arguments.words is None else _table(arguments.words)
    network = common.load_network(arguments, fully_convolutional=True)
    config = network.config
    words = Words(config.class_names, table)
    explainers = common.explainers(arguments, network, fully_convolutional=True)
    methods = {METHODS[name].title: explain for name, explain in explainers.items()}
    held_out = max(1, len(indices) // 10) if arguments.held_out is None else arguments.held_out
    found = study.phrase_study(
        source,
        common.Aspect(arguments, config),
        lambda pixels: data.normalise(pixels, config),
        words,
        methods,
        held_out_images(len(indices), held_out),
        proposals=study.sliding_boxes
        if arguments.proposals is None
        else functools.partial(_proposed, arguments.proposals),
        indices=indices,
        workers=arguments.workers,
        progress=common.progress(len(indices)),
    )
    title = f"Phrase localisation: {config.name} on {source.name}"
    return common.Result(title, found, lambda: _draw(found, title))


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
            raise ValueError(f"{path} must have a line a box: left, top, right, bottom")
        return boxes
    raise ValueError(f"{folder} has no proposals for the image {record.id} (.npy, .csv or .txt)")


def _draw(table: Any, title: str) -> Any:
    """Recall at 5 of every group of phrases: the paper's Table 7 as bars."""
    import numpy as np
    from matplotlib.figure import Figure

    names = list(table.results)
    groups = list(next(iter(table.results.values()))[1].group_recall)
    figure = Figure(figsize=(2 + 1.2 * len(groups), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        values = [100 * v for v in table.results[name][1].group_recall.values()]
        axes.bar(
            np.arange(len(groups)) + (k - (len(names) - 1) / 2) * width, values, width, label=name
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("recall at 5 (%)")
    axes.set_title(title)
    figure.legend(loc="outside right upper")
    return figure


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
        help="a file of boxes an image (.npy, .csv or .txt: left, top, right, bottom in 0-based, "
        "half-open pixels); default: 289 sliding windows",
    )
    add(
        "--held-out",
        type=int,
        metavar="N",
        help="images, drawn at random, on which gamma is chosen; default: a tenth",
    )
    common.add_aspect(parser, short=300)


PROTOCOL = common.Protocol(
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
