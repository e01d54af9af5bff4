"""The command line: one file per command, and the one place where errors become a line.

Whatever the user got wrong is one line on stderr and exit status 2. Heavy imports wait until a
command needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import IO, NoReturn

import jaxplain
from jaxplain.cli import (
    app,
    benchmark,
    convert,
    evaluate,
    explain,
    explain_dataset,
    finetune,
    gallery,
    layers,
    models,
    pfv,
    programs,
    progress,
)
from jaxplain.cli.common import CliError
from jaxplain.core import UnsupportedOperationError
from jaxplain.core.errors import suggest
from jaxplain.engine.stopping import ends_in_time

COMMANDS = (
    *(explain, layers, models, convert, evaluate, explain_dataset, gallery, app, pfv),
    *(finetune, benchmark),
)

#: What input, files and installations can bring about. Anything else is a bug, and has a traceback.
_EXPECTED = (CliError, UnsupportedOperationError, OSError, ImportError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for bad input, 130 if interrupted.

    >>> main(["explain", "--methods", "grad-camm"])
    2
    """
    whole = bool(os.environ.get("JAXPLAIN_TRACEBACK"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    try:
        try:
            with ends_in_time((signal.SIGINT, signal.SIGTERM)):
                arguments = _parser().parse_args(argv)
                whole |= hasattr(arguments, "traceback")
                keep = not hasattr(arguments, "no_compilation_cache")
                with progress.messages(), programs.kept(keep):
                    arguments.command(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk, or a reader that has left, is noticed here
    except BrokenPipeError:  # `jaxplain layers | head`
        _drop(sys.stdout)
        return 0
    except _EXPECTED as error:
        if isinstance(error, ImportError) and (error.name or "").startswith("jaxplain"):
            raise  # nothing that can be installed
        if whole:
            _say(traceback.format_exc().rstrip())
        line = " ".join(str(error).split())
        _say(f"jaxplain: error: {line}{_origin(error)}")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO):
            _drop(sys.stdout)
        return 2
    except KeyboardInterrupt:
        _say("jaxplain: interrupted")
        return 130
    return 0


def _say(text: str) -> None:
    """Writes a line on stderr, if that can be written."""
    text = text.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)


def _drop(stream: IO[str] | None) -> None:
    """What is left for a stream goes nowhere, or Python would complain of it when it ends."""
    if stream is not None:  # as where it was closed before the process began
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
        wrong = re.match(r"argument (.+): invalid choice: (.+) \(choose from (.+)\)$", message)
        if wrong is not None:
            what, name, known = wrong.groups()
            name, known = name.strip("'\""), [k.strip("' ") for k in known.split(",")]
            message = f"argument {what}: there is no {name!r}{suggest(name, known)}"
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
