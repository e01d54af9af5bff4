"""The command `jaxplain finetune`: a new output layer for a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxplain.cli.common import add_model_options


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds the command; what the user got wrong is raised as ``error(sentence)``."""
    parser = commands.add_parser(
        "finetune",
        help="train a new output layer on a data set",
        description="Replaces a network's output layer by one for a data set's classes, and trains "
        "that layer alone, on features that are computed once. What it writes is a network: give "
        "the folder to --model of other commands.",
    )
    add = parser.add_argument
    add(
        "--data",
        required=True,
        metavar="NAME|FOLDER",
        help="of TFDS, such as voc/2007; or a folder in the data set's own layout",
    )
    add("--split", required=True, metavar="NAME", help="to train on, such as train")
    add(
        "--validation-split",
        required=True,
        metavar="NAME",
        help="that tells when to stop, such as val",
    )
    add("--data-dir", metavar="FOLDER", help="where TFDS keeps its data")
    add_model_options(parser)
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder to make for the new network; until it is done, FOLDER.checkpoint keeps the "
        "training's state, from which a second run goes on",
    )
    add(
        "--loss",
        choices=("sigmoid", "softmax"),
        default="sigmoid",
        help="sigmoid for several classes to an image, softmax for one; default: %(default)s",
    )
    add("--no-flips", action="store_true", help="do not train on mirrored images")
    add("--no-crops", action="store_true", help="do not train on the corners of images")
    for name, kind, default in (
        ("learning-rate", float, 0.01),
        ("batch-size", int, 64),
        ("epochs", int, 100),
        ("patience", int, 5),
    ):
        add(f"--{name}", type=kind, default=default, metavar="N", help="default: %(default)s")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read images; default: 0, threads",
    )
    parser.set_defaults(command=lambda arguments: _finetune(arguments, error))


def _finetune(arguments: argparse.Namespace, error: Callable[[str], Exception]) -> None:
    if arguments.output.exists():
        raise error(f"the output {arguments.output} exists already; name a new folder")
    for option in ("learning_rate", "batch_size", "epochs", "patience"):
        if getattr(arguments, option) <= 0:
            raise error(f"--{option.replace('_', '-')} must be positive")
    try:
        from jaxplain import data, models
        from jaxplain.training.finetune import finetune

        train, validation = (
            data.open_source(arguments.data, split, data_dir=arguments.data_dir)
            for split in (arguments.split, arguments.validation_split)
        )
        checkpoint = arguments.output.with_name(f"{arguments.output.name}.checkpoint")
        result = finetune(
            models.from_pretrained(arguments.model, network=arguments.network),
            train,
            validation,
            loss=arguments.loss,
            flips=not arguments.no_flips,
            crops=not arguments.no_crops,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            patience=arguments.patience,
            checkpoint=checkpoint,
            workers=arguments.workers,
            progress=_progress if sys.stderr.isatty() else None,
        )
        for record, reason in result.failures:
            print(f"could not be read: {record}: {reason}", file=sys.stderr)
        models.save_pretrained(result.network, arguments.output)
    except (ImportError, OSError, ValueError) as problem:
        raise error(str(problem)) from None
    print(
        f"{len(result.losses)} epochs; mean average precision on {arguments.validation_split}: "
        f"{100 * result.mean_average_precision:.1f} %\nwrote {arguments.output}"
    )


def _progress(what: str, done: int) -> None:
    print(f"\r\033[K{done} {what}", end="", file=sys.stderr, flush=True)
