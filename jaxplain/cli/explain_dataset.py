"""The command `jaxplain explain-dataset`: maps of every image of a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxplain.cli.common import add_data_options, add_model_options
from jaxplain.cli.protocols import common
from jaxplain.core import UnsupportedOperationError
from jaxplain.explainers.catalogue import METHODS


def add_commands(commands: Any, error: Callable[[str], Exception]) -> None:
    """Adds the command; what the user got wrong is raised as ``error(sentence)``."""
    parser = commands.add_parser(
        "explain-dataset",
        help="write the maps of every image of a data set",
        description="Explains every image of a data set and writes the maps to a folder, which "
        "jaxplain.data.open_maps reads. Run the same command again after an interruption, and it "
        "goes on from where it was.",
    )
    add = parser.add_argument
    add_data_options(
        parser,
        "a data set of TFDS, such as voc/2007; or a folder: VOCdevkit/VOC2007, COCO, "
        "ImageNet, CUB_200_2011, or any folder of images",
    )
    add_model_options(parser)
    add(
        "--methods",
        default="c-mwp",
        metavar="A,B,C",
        help=f"default: %(default)s; known: {', '.join(METHODS)}",
    )
    add("--layer", metavar="NAME", help="layer of the methods that take one; default: their own")
    add(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME|INDEX|labels",
        help="class to explain in every image, by name or index, may be repeated; or 'labels', "
        "what each image is annotated with; default: each image's top class",
    )
    common.add_aspect(parser, 224)
    add(
        "--batch-size",
        type=int,
        default=8,
        metavar="N",
        help="images at once, on all devices together; default: %(default)s",
    )
    add(
        "--shard-size",
        type=int,
        default=256,
        metavar="N",
        help="images in a file, the most that an interruption can lose; default: %(default)s",
    )
    add("--limit", type=int, metavar="N", help="take the first N images only")
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read images; default: 0, threads",
    )
    add(
        "--distributed",
        action="store_true",
        help="this is one of several processes (jax.distributed.initialize finds the others from "
        "the cluster's environment); each explains its share",
    )
    add("--output", type=Path, required=True, metavar="FOLDER", help="write the maps there")
    parser.set_defaults(command=lambda arguments: _explain(arguments, error))


def _explain(arguments: argparse.Namespace, error: Callable[[str], Exception]) -> None:
    try:
        summary = _run(arguments)
    except (ImportError, OSError, ValueError, UnsupportedOperationError) as problem:
        raise error(str(problem)) from None
    for record, reason in summary.failures:
        print(f"left out: {record}: {reason}", file=sys.stderr)
    # Compilation is over after the first batch of each shape, and tells nothing about a long run.
    working = summary.seconds - summary.compile_seconds
    print(
        f"{arguments.output}: maps of {summary.records} images, {summary.explained} of them now "
        f"in {summary.seconds:.0f} s: {summary.compile_seconds:.0f} s to compile "
        f"{summary.programs} programs, the device at work for "
        f"{100 * summary.compute_seconds / working:.0f} % of the rest"
    )


def _run(arguments: argparse.Namespace) -> Any:
    common.check(arguments)
    if arguments.distributed:
        import jax

        jax.distributed.initialize()
    import jaxplain
    from jaxplain import data
    from jaxplain.cli.progress import Progress

    source, indices = common.open_data(arguments)
    # Dense layers slide over the whole image, whatever its aspect.
    network = common.load_network(arguments, fully_convolutional=True)
    config = network.config
    explainers = common.explainers(arguments, network, fully_convolutional=True)
    return jaxplain.explain_dataset(
        network,
        source,
        arguments.output,
        {
            name: lambda _, x, targets, explain=explain: explain(x, targets)
            for name, explain in explainers.items()
        },
        prepare=common.Aspect(arguments, config),
        to_input=lambda pixels: data.normalise(pixels, config),
        targets=_targets(arguments.classes, source, config),
        batch_size=arguments.batch_size,
        shard_size=arguments.shard_size,
        indices=indices,
        workers=arguments.workers,
        about={
            "model": config.name,
            "split": arguments.split,
            "layer": arguments.layer,
            "short": arguments.short,
            "multiple": arguments.multiple,
        },
        progress=Progress("images"),
    )


def _targets(classes: Sequence[str] | None, source: Any, config: Any) -> Any:
    from jaxplain import models

    if classes is None:
        return None
    if "labels" in classes:
        if len(classes) > 1:
            raise ValueError("--class labels cannot be combined with other classes")
        if not source.class_names:
            raise ValueError(f"--class labels: {source.name} has no labels; name classes, or none")
        return common.cues(source, config)
    count = len(config.class_names) or config.outputs
    names = config.class_names or [f"class {i}" for i in range(count)]
    chosen = (models.class_index(text.replace("_", " "), names, count) for text in classes)
    return list(dict.fromkeys(chosen))
