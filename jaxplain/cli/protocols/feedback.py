"""`jaxplain evaluate feedback`: objects by graph cut (Cao et al. 2015, section 4.2)."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.protocols import common
from jaxplain.cli.protocols.localisation import prepared


def _run(arguments: argparse.Namespace) -> common.Result:
    from jaxplain.evaluation.studies import localisation as study

    asked, to_input, methods, where = prepared(arguments)
    table = study.graph_cut_objects(asked, to_input, methods)
    title = f"Localisation by graph cut: {where}"
    return common.Result(title, table, lambda: _draw(table, title))


def _draw(table: Any, title: str) -> Any:
    """The error of each method with its standard error, the whole image in grey."""
    from jaxplain.evaluation.studies.localisation import WHOLE
    from jaxplain.viz.charts import score_bars

    misses = {
        name: [0.0] * found.hits + [1.0] * (found.trials - found.hits)
        for name, found in table.results.items()
    }
    return score_bars(misses, f"error; {title}", highlight=[WHOLE])


PROTOCOL = common.Protocol(
    name="feedback",
    help="localisation by graph cut (Cao et al. 2015, section 4.2)",
    description="Feedback CNN's localisation: the pixels above a map's 95 % quantile seed the "
    "foreground of a graph cut of the picture, those below its 30 % quantile the background; does "
    "the tightest box around the largest component overlap with an object of the class by an IoU "
    "of at least 0.5?",
    methods=("gradient", "guided-backprop", "deconvnet", "feedback"),
    run=_run,
)
