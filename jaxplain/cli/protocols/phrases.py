"""`jaxplain evaluate phrases`: phrase localisation (Zhang et al. 2018, section 6.3)."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.common import load_model, local_path
from jaxplain.cli.options import add_aspect, add_held_out
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain import data
    from jaxplain.data.proposals import read_phrase_boxes, read_proposals
    from jaxplain.data.words import Words
    from jaxplain.evaluation.studies import phrases as study
    from jaxplain.evaluation.studies.localisation import held_out_images

    if arguments.gamma_split is not None and arguments.held_out is not None:
        raise ValueError("gamma is chosen on --gamma-split or on --held-out images, not on both")
    named = _named(arguments.proposals)
    if len(named) > 1 and "" in named:
        raise ValueError("of several --proposals each needs a name: --proposals MCG=FOLDER")
    proposals = {name: functools.partial(read_proposals, folder) for name, folder in named.items()}
    given = {
        name or "Given boxes": functools.partial(read_phrase_boxes, folder)
        for name, folder in _named(arguments.phrase_boxes).items()
    }
    source, indices = datasets.open_data(arguments, images=arguments.images)
    table = None if arguments.words is None else _table(arguments.words)
    network = load_model(arguments, fully_convolutional=True)
    config = network.config
    words = Words(config.class_names, table)
    methods = datasets.prepared(arguments, network, fully_convolutional=True)
    if arguments.gamma_split is not None:
        other = data.open_source(arguments.data, arguments.gamma_split, images=arguments.images)
        count = len(other) if arguments.limit is None else min(arguments.limit, len(other))
        chosen_on: dict[str, Any] = {"tuning": (other, range(count))}
    else:
        held_out = max(1, len(indices) // 10) if arguments.held_out is None else arguments.held_out
        chosen_on = {"held_out": held_out_images(len(indices), held_out)}
    report = study.phrase_study(
        source,
        datasets.view(arguments, network),
        lambda pixels: data.normalise(pixels, config),
        words,
        methods,
        **chosen_on,
        proposals=proposals or {"": study.sliding_boxes},
        given=given,
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


def _named(values: list[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` or ``FOLDER`` of each; the name of the second is ""."""
    found: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.rpartition("=")
        if name in found:
            raise ValueError(f"two folders have the name {name!r}")
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
        found[name if equals else ""] = Path(folder)
    return found


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--images", required=True, metavar="FOLDER", help="the images of Flickr30k")
    add(
        "--words",
        type=local_path,
        metavar="FILE",
        help='JSON of what words mean, as {"man": ["groom", 981]}; other words mean the classes '
        "that are named so",
    )
    add(
        "--proposals",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="what is proposed, one file per image: boxes (.npy, .csv or .txt: left, top, right, "
        "bottom in 0-based, half-open pixels, and optionally a score) or segments (.npz: masks, "
        "bool (n, H, W), and optionally scores). Given several times, as MCG=FOLDER and EB=FOLDER, "
        "every method has a row with each. Scores have a row of their own (MCG base). Default: 289 "
        "sliding windows",
    )
    add(
        "--phrase-boxes",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a row of boxes that others predict for the phrases, as CCA: one .csv per image, one "
        "line per box: phrase, left, top, right, bottom, score",
    )
    add(
        "--gamma-split",
        metavar="NAME",
        help="the split on which each method's gamma is chosen, such as val; default: --held-out",
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
