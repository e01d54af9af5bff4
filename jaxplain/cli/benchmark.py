"""The command `jaxplain benchmark`: networks trained and methods compared from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxplain.cli import options
from jaxplain.cli.common import CliError, extra
from jaxplain.cli.progress import Bar


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "benchmark",
        help="train small networks on digits in clutter, and compare all methods",
        description="Draws a data set of handwritten digits in clutter, trains small networks in "
        "the shape of VGG, ResNet, GoogLeNet, ConvNeXt and ViT on it, and prints tables of "
        "every method. Needs no download.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer images and methods: two minutes, not fifteen"
    )
    options.add_output(
        parser,
        "write benchmark.json, .md and .png there, and keep the training's checkpoints, from "
        "which a second run goes on; default: %(default)s",
        default=Path("benchmark"),
    )
    parser.set_defaults(command=_benchmark)


def _benchmark(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.output
    if folder.exists() and not folder.is_dir():
        raise CliError(f"the output {folder} is not a folder")
    with extra("benchmark"):
        from jaxplain import viz
        from jaxplain.digits import run
    with Bar("done") as progress:
        report = run.benchmark(
            run.QUICK if arguments.quick else run.FULL,
            checkpoint=folder / ("checkpoints-quick" if arguments.quick else "checkpoints"),
            progress=progress,
        )
    if arguments.quick:
        report = report.about("quick form")
    print(f"{report.title}\n\n{report.markdown()}")
    report.write(folder, "benchmark")
    viz.save(report.figure(), folder / "benchmark.png")
    print(f"\nwrote {folder}")
