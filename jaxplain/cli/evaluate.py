"""The command `jaxplain evaluate PROTOCOL`: the papers' experiments on a data set.

One file per protocol; `protocols.common` says what a protocol declares.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets
from jaxplain.cli.progress import Bar
from jaxplain.cli.protocols import (
    faithfulness,
    feedback,
    fixations,
    localisation,
    phrases,
    pointing,
    sanity,
)
from jaxplain.cli.protocols.common import Protocol
from jaxplain.core import extras

if TYPE_CHECKING:
    from jaxplain.evaluation.studies.report import Report

PROTOCOLS: tuple[Protocol, ...] = tuple(
    module.PROTOCOL
    for module in (pointing, localisation, feedback, phrases, fixations, sanity, faithfulness)
)


def add_commands(commands: Any) -> None:
    """Adds the command."""
    evaluate = commands.add_parser(
        "evaluate",
        help="run a paper's experiment on a data set",
        description="Runs a paper's experiment on a data set and prints its table.",
    )
    protocols = evaluate.add_subparsers(title="protocols", metavar="PROTOCOL", required=True)
    for protocol in PROTOCOLS:
        parser = protocols.add_parser(
            protocol.name, help=protocol.help, description=protocol.description
        )
        protocol.add_options(parser)
        parser.set_defaults(command=functools.partial(_evaluate, protocol))


def _evaluate(protocol: Protocol, arguments: argparse.Namespace) -> None:
    datasets.check(arguments, protocol.extra)
    with Bar(protocol.unit) as progress:
        report = protocol.run(arguments, progress)
    print(f"{report.title}\n\n{report.markdown()}")
    datasets.show_failures(report.failures)
    if arguments.output is not None:
        _write(arguments, protocol.name, report)


def _write(arguments: argparse.Namespace, name: str, report: Report[Any]) -> None:
    left_out = ("command", "output", "traceback", "choices")
    options = {key: value for key, value in vars(arguments).items() if key not in left_out}
    report.write(arguments.output, name, {"options": options})
    if importlib.util.find_spec("matplotlib") is None:
        print(f"no {name}.png: that needs {extras.install('viz')}", file=sys.stderr)
    else:
        from jaxplain import viz

        viz.save(report.figure(), arguments.output / f"{name}.png", dpi=150)
    print(f"\nwrote {arguments.output}")
