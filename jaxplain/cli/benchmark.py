"""The command `jaxplain benchmark`: networks trained and methods compared from nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds the command; what the user got wrong is raised as ``error(sentence)``."""
    parser = commands.add_parser(
        "benchmark",
        help="train small networks on digits in clutter, and compare all methods",
        description="Draws a data set of handwritten digits in clutter, trains small networks in "
        "the shape of VGG, ResNet and GoogLeNet on it, and prints the pointing game's table of "
        "every method. Needs no download.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer images and methods: two minutes, not fifteen"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("benchmark"),
        metavar="FOLDER",
        help="write benchmark.json, .md and .png there, and keep the training's checkpoints, from "
        "which a second run goes on; default: %(default)s",
    )
    parser.set_defaults(command=lambda arguments: _benchmark(arguments, error))


def _benchmark(arguments: argparse.Namespace, error: Callable[[str], Exception]) -> None:
    folder: Path = arguments.output
    if folder.exists() and not folder.is_dir():
        raise error(f"the output {folder} is not a folder")
    try:
        from jaxplain import viz
        from jaxplain.digits import drawing, run

        size = run.QUICK if arguments.quick else run.FULL
        result, networks = run.benchmark(
            size,
            checkpoint=folder / ("checkpoints-quick" if arguments.quick else "checkpoints"),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        title = f"Pointing game on digits in clutter{' (quick form)' if arguments.quick else ''}"
        print(f"{title}\n\n{result.markdown()}")
        run.write(folder, title, result)
        viz.save(drawing.examples(networks), folder / "benchmark.png")
    except (ImportError, OSError, ValueError) as problem:
        raise error(str(problem)) from None
    print(f"\nwrote {folder}")
