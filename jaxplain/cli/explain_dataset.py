"""The command `jaxplain explain-dataset`: maps of every image of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxplain.cli import datasets, method_options, options
from jaxplain.cli.common import CliError, load_model
from jaxplain.cli.progress import Bar
from jaxplain.explainers.catalogue import METHODS

if TYPE_CHECKING:
    from jaxplain.engine.run import RunSummary


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "explain-dataset",
        help="write the maps of every image of a data set",
        description="Explains every image of a data set and writes the maps to a folder, which "
        "jaxplain.data.open_maps reads. Run the same command again after an interruption, and it "
        "goes on from where it was.",
    )
    options.add_data(
        parser,
        "a data set of TFDS, such as voc/2007; or a folder: VOCdevkit/VOC2007, COCO, "
        "ImageNet, CUB_200_2011, or any folder of images",
    )
    options.add_model(parser)
    options.add_methods(parser, "c-mwp", f"known: {', '.join(METHODS)}")
    method_options.add_options(parser)
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME|INDEX|labels",
        help="class to explain in every image, by name or index, may be repeated; or 'labels', "
        "what each image is annotated with; default: each image's top class",
    )
    options.add_aspect(parser, 224, multiple=16)
    options.add_batch_size(parser, 8, "images at once, on all devices together")
    options.add_number(
        parser, "--shard-size", 1024, "images in a file, the most that an interruption can lose"
    )
    options.add_limit(parser)
    options.add_workers(parser)
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes (jax.distributed.initialize finds the others from "
        "the cluster's environment); each explains its share",
    )
    parser.add_argument(
        "--on",
        metavar="ray|ray://HOST:PORT",
        help="a cluster of Ray whose workers explain the images",
    )
    parser.add_argument(
        "--shards",
        type=_range,
        metavar="A:B",
        help="only the files A to B - 1 of the output, for the tasks of an array",
    )
    parser.add_argument(
        "--same-devices",
        action="store_true",
        help="refuse to go on with other devices or versions than the maps were begun with",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER|ADDRESS",
        help="write the maps there: a folder, or an address such as gs://bucket/maps (fsspec)",
    )
    parser.set_defaults(command=_explain)


def _range(text: str) -> tuple[int, int]:
    begin, colon, end = text.partition(":")
    if not (colon and begin.isdecimal() and end.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be like 0:100, not {text!r}")
    return int(begin), int(end)


def _explain(arguments: argparse.Namespace) -> None:
    datasets.check(arguments)
    if arguments.distributed:
        if arguments.on is not None:
            raise CliError("--distributed and --on: name one of them")
        _join()
    if arguments.on is not None:
        import jax

        jax.config.update("jax_platforms", "cpu")  # the devices are for the workers
    with Bar("images") as progress:
        summary = _run(arguments, progress)
    datasets.show_failures(summary.failures, "left out")
    # Compilation is over after the first batch of each shape, and tells nothing about a long run.
    working = summary.seconds - summary.compile_seconds
    print(
        f"{arguments.output}: maps of {summary.records} images, {summary.explained} of them now "
        f"in {summary.seconds:.0f} s: {summary.compile_seconds:.0f} s to compile "
        f"{summary.programs} programs, the device at work for "
        f"{100 * summary.compute_seconds / working:.0f} % of the rest"
        if arguments.on is None
        else f"{arguments.output}: maps of {summary.records} images, {summary.explained} of them "
        f"now in {summary.seconds:.0f} s"
    )


def _join() -> None:
    """Joins the other processes of the cluster."""
    import jax

    # Which would catch SIGTERM, and do nothing.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise CliError(f"--distributed: {error}") from error


def _run(arguments: argparse.Namespace, progress: Bar) -> RunSummary:
    import jaxplain
    from jaxplain import data

    source, indices = datasets.open_data(arguments)
    # Dense layers slide over the whole image, whatever its aspect.
    network = load_model(arguments, fully_convolutional=True)
    config = network.config
    view = datasets.view(arguments, network)
    methods = datasets.prepared(arguments, network, fully_convolutional=True, leave_out=False)
    return jaxplain.explain_dataset(
        network,
        source,
        arguments.output,
        {
            method.choice.name: lambda _, x, targets, method=method: method(x, targets)
            for method in methods.values()
        },
        prepare=view,
        to_input=lambda pixels: data.normalise(pixels, config),
        targets=_targets(arguments.classes, source, config),
        batch_size=arguments.batch_size,
        shard_size=arguments.shard_size,
        indices=indices,
        workers=arguments.workers,
        shards=arguments.shards,
        same_devices=arguments.same_devices,
        on=arguments.on,
        about={
            "model": config.name,
            "split": arguments.split,
            "layer": arguments.layer,
            "settings": {n: dict(c.said) for n, c in arguments.choices.items() if c.said},
            "short": arguments.short,
            "multiple": arguments.multiple,
        },
        class_names=config.class_names,
        progress=progress,
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
        return datasets.cues(source, config)
    count = len(config.class_names) or config.outputs
    names = config.class_names or [f"class {i}" for i in range(count)]
    chosen = (models.class_index(text.replace("_", " "), names, count) for text in classes)
    return list(dict.fromkeys(chosen))
