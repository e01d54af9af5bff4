"""`jaxplain evaluate feedback`: objects by graph cut (Cao et al. 2015, section 4.2)."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import local_path
from jaxplain.cli.options import add_number
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol
from jaxplain.cli.protocols.localisation import prepared
from jaxplain.core.errors import suggest
from jaxplain.explainers.cut_names import SEGMENTATIONS

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import localisation as study
    from jaxplain.evaluation.studies.questions import predicted

    asked, to_input, methods, where, network = prepared(arguments, progress)
    given = {}
    if arguments.boxes is not None:
        given = {"Supervised": _boxes(arguments.boxes, asked.source)}
    top = arguments.top
    report = study.graph_cut_objects(
        asked,
        to_input,
        methods,
        predictions=None if top is None else lambda x: predicted(network, x, top),
        given=given,
        segmentation=arguments.segmentation,
    )
    return report.about(where).without(methods.left_out)


def _boxes(path: Path, source: Any) -> dict[str, list[tuple[int, list[float]]]]:
    """The lines of a file of predicted boxes, by image."""
    labels = {name: i for i, name in enumerate(source.class_names)}
    labels |= {name: i for i, name in enumerate(getattr(source, "wordnet_ids", ()))}
    found: dict[str, list[tuple[int, list[float]]]] = {}
    with open(path, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if not row or (number == 1 and row[0] == "image"):
                continue
            where = f"{path}, line {number}"
            if len(row) != 6:
                raise ValueError(f"{where}: not image, class, left, top, right, bottom")
            image, name, *corners = (part.strip() for part in row)
            if name not in labels:
                raise ValueError(
                    f"{where}: {source.name} has no class {name!r}{suggest(name, labels)}"
                )
            try:
                left, top, right, bottom = map(float, corners)
            except ValueError:
                raise ValueError(f"{where}: the corners must be numbers, not {corners}") from None
            if not (left < right and top < bottom and math.isfinite(right - left + bottom - top)):
                raise ValueError(f"{where}: no box has the corners {corners}")
            found.setdefault(image, []).append((labels[name], [left, top, right, bottom]))
    return found


def _options(parser: argparse.ArgumentParser) -> None:
    add_number(
        parser,
        "--top",
        None,
        "the class counts only if it is among the network's N best (5 in Table 1); default: the "
        "class is given (Tables 2 and 3)",
        show_default=False,
    )
    parser.add_argument(
        "--boxes",
        type=local_path,
        metavar="FILE",
        help="boxes that a network trained for it predicts, for a row 'Supervised': CSV with one "
        "line per box: image (its file's name without the ending), class (name or WordNet id), "
        "left, top, right, bottom in the image's 0-based, half-open pixels; an image's best first",
    )
    parser.add_argument(
        "--segmentation",
        choices=SEGMENTATIONS,
        default=SEGMENTATIONS[0],
        help="the graph cut: Boykov and Jolly's one minimum cut, as in the paper, or OpenCV's "
        "GrabCut; default: %(default)s",
    )


PROTOCOL = Protocol(
    name="feedback",
    help="localisation by graph cut (Cao et al. 2015, section 4.2)",
    description="Feedback CNN's localisation: the pixels above a map's 95 % quantile seed the "
    "foreground of a graph cut of the picture, those below its 30 % quantile the background; does "
    "the tightest box around the largest component overlap with an object of the class by an IoU "
    "of at least 0.5?",
    methods=("gradient", "guided-backprop", "deconvnet", "feedback"),
    run=_run,
    options=_options,
)
