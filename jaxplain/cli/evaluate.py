"""The command `jaxplain evaluate PROTOCOL`: the papers' experiments on a data set.

A file a protocol; `common` has what they share.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxplain.cli.protocols import (
    common,
    faithfulness,
    feedback,
    fixations,
    localisation,
    phrases,
    pointing,
    sanity,
)
from jaxplain.core import UnsupportedOperationError

PROTOCOLS = (pointing, localisation, feedback, phrases, fixations, sanity, faithfulness)


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds the command; what the user got wrong is raised as ``error(sentence)``."""
    evaluate = commands.add_parser(
        "evaluate",
        help="run a paper's experiment on a data set",
        description="Runs a paper's experiment on a data set and prints its table.",
    )
    protocols = evaluate.add_subparsers(title="protocols", metavar="PROTOCOL", required=True)
    for module in PROTOCOLS:
        protocol: common.Protocol = module.PROTOCOL
        parser = protocols.add_parser(
            protocol.name, help=protocol.help, description=protocol.description
        )
        common.add_options(parser, protocol)
        parser.set_defaults(command=functools.partial(_evaluate, protocol, error))


def _evaluate(
    protocol: common.Protocol, error: Callable[[str], Exception], arguments: argparse.Namespace
) -> None:
    try:
        common.check(arguments, protocol.extra)
        result = protocol.run(arguments)
        print(f"{result.title}\n\n{result.table.markdown()}")
        for record, reason in result.table.failures:
            print(f"could not be read: {record}: {reason}", file=sys.stderr)
        if arguments.output is not None:
            _write(arguments, protocol.name, result)
    except (ImportError, OSError, ValueError, UnsupportedOperationError) as problem:
        raise error(str(problem)) from None


def _write(arguments: argparse.Namespace, name: str, result: common.Result) -> None:
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(arguments).items()
        if key not in ("command", "output")
    }
    said = {"title": result.title, "options": options, **result.table.to_json()}
    text = json.dumps(said, indent=1, allow_nan=False)
    (folder / f"{name}.json").write_text(f"{text}\n", "utf-8")
    (folder / f"{name}.md").write_text(f"# {result.title}\n\n{result.table.markdown()}\n", "utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        print(f'no {name}.png: that needs pip install "jaxplain[viz]"', file=sys.stderr)
    else:
        from jaxplain import viz

        viz.save(result.draw(), folder / f"{name}.png", dpi=150)
    print(f"\nwrote {folder}")
