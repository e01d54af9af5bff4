"""`jaxplain evaluate feedback`: objects by graph cut (Cao et al. 2015, section 4.2)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols.common import Protocol
from jaxplain.cli.protocols.localisation import prepared

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report


def _run(arguments: argparse.Namespace, progress: Bar) -> Report[Any]:
    from jaxplain.evaluation.studies import localisation as study

    asked, to_input, methods, where = prepared(arguments, progress)
    report = study.graph_cut_objects(asked, to_input, methods)
    return report.about(where).without(methods.left_out)


PROTOCOL = Protocol(
    name="feedback",
    help="localisation by graph cut (Cao et al. 2015, section 4.2)",
    description="Feedback CNN's localisation: the pixels above a map's 95 % quantile seed the "
    "foreground of a graph cut of the picture, those below its 30 % quantile the background; does "
    "the tightest box around the largest component overlap with an object of the class by an IoU "
    "of at least 0.5?",
    methods=("gradient", "guided-backprop", "deconvnet", "feedback"),
    run=_run,
)
