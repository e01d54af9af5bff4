"""The command line: `jaxplain explain`, `layers`, `models`, `convert`, `evaluate`, `--version`.

Whatever the user got wrong is one line on stderr and exit status 2. Heavy imports wait until a
command needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jaxplain.cli import benchmark, evaluate, explain, explain_dataset, finetune, layers, models
from jaxplain.cli.common import CliError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for bad input, 130 if interrupted.

    >>> main(["explain", "--methods", "grad-camm"])
    2
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.command(arguments)
    except CliError as error:
        line = " ".join(str(error).split())
        print(f"jaxplain: error: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `jaxplain layers | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("jaxplain: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CliError(f"{message} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser, *_) -> NoReturn:
        print(f"jaxplain {importlib.metadata.version('jaxplain')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxplain", description="Explains what a convolutional classifier looked at."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    explain.add_commands(commands)
    layers.add_commands(commands)
    models.add_commands(commands, CliError)
    evaluate.add_commands(commands, CliError)
    explain_dataset.add_commands(commands, CliError)
    finetune.add_commands(commands, CliError)
    benchmark.add_commands(commands, CliError)
    return parser
