"""The command line: one file per command, and the one place where errors become a line.

Whatever the user got wrong is one line on stderr and exit status 2. Heavy imports wait until a
command needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import jaxplain
from jaxplain.cli import (
    benchmark,
    convert,
    evaluate,
    explain,
    explain_dataset,
    finetune,
    layers,
    models,
    pfv,
    programs,
    progress,
)
from jaxplain.cli.common import CliError
from jaxplain.core import UnsupportedOperationError

COMMANDS = (explain, layers, models, convert, evaluate, explain_dataset, pfv, finetune, benchmark)

#: What input, files and installations can bring about. Anything else is a bug, and has a traceback.
_EXPECTED = (CliError, UnsupportedOperationError, OSError, ImportError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for bad input, 130 if interrupted.

    >>> main(["explain", "--methods", "grad-camm"])
    2
    """
    whole = bool(os.environ.get("JAXPLAIN_TRACEBACK"))
    try:
        arguments = _parser().parse_args(argv)
        whole |= hasattr(arguments, "traceback")
        with progress.messages(), programs.kept(not hasattr(arguments, "no_compilation_cache")):
            arguments.command(arguments)
    except BrokenPipeError:  # `jaxplain layers | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPECTED as error:
        if isinstance(error, ImportError) and (error.name or "").startswith("jaxplain"):
            raise  # nothing that can be installed
        if whole:
            traceback.print_exc()
        line = " ".join(str(error).split())
        print(f"jaxplain: error: {line}{_origin(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxplain: interrupted", file=sys.stderr)
        return 130
    return 0


def _origin(error: BaseException) -> str:
    """Where an error of values was raised, if not by jaxplain, who checks what it is given.

    It may come of a bug: an array of the wrong shape is a `ValueError` of JAX.
    """
    if type(error) is not ValueError or error.__traceback__ is None:
        return ""
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    if any("JAX" in note for note in getattr(error, "__notes__", ())):
        package = "jax"  # it takes its own frames away, and leaves a note of it
    if package == "jaxplain":
        return ""
    return f" (raised in {package}; --traceback shows where)"


class _Parser(argparse.ArgumentParser):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.add_argument(
            "--traceback",
            action="store_true",
            default=argparse.SUPPRESS,
            help="with an error, show where in the program it arose (or set JAXPLAIN_TRACEBACK=1)",
        )

        self.add_argument(
            "--no-compilation-cache",
            action="store_true",
            default=argparse.SUPPRESS,
            help="keep no compiled programs in the cache folder, and read none from there",
        )

    def error(self, message: str) -> NoReturn:
        raise CliError(f"{message} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser, *_) -> None:
        print(f"jaxplain {jaxplain.__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxplain", description="Explains what a convolutional classifier looked at."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_commands(commands)
    return parser
