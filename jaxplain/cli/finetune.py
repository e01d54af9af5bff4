"""The command `jaxplain finetune`: a new output layer for a data set."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli import datasets, options
from jaxplain.cli.common import CliError, load_model
from jaxplain.cli.progress import Bar


def add_commands(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "finetune",
        help="train a new output layer on a data set",
        description="Replaces a network's output layer by one for a data set's classes, and trains "
        "that layer alone, on features that are computed once, as Zhang et al. 2018 (section 6.1): "
        "cross-entropies summed over the classes, their learning rate and batch sizes, until the "
        "training loss has come to a plateau. What it writes is a network: give the folder to "
        "--model of other commands.",
    )
    options.add_data(
        parser,
        "of TFDS, such as voc/2007; or a folder in the data set's own layout",
        split="to train on, such as train",
    )
    add = parser.add_argument
    add(
        "--validation-split",
        metavar="NAME",
        help="on which the mean average precision is measured, such as val; default: none",
    )
    options.add_model(parser)
    options.add_output(
        parser,
        "folder to make for the new network; until it is done, FOLDER.checkpoint keeps the "
        "training's state, from which a second run goes on",
        required=True,
    )
    add(
        "--loss",
        choices=("sigmoid", "sigmoid_mean", "softmax"),
        default="sigmoid",
        help="sigmoid for several classes to an image, summed over classes (sigmoid_mean: their "
        "mean); softmax for one, images with none or several are left out; default: %(default)s",
    )
    add(
        "--stop",
        choices=("training", "validation"),
        default="training",
        help="training: when the training loss has fallen by less than 1 %% in --patience epochs; "
        "validation: when the validation loss has not been lower for so many, with the weights of "
        "the lowest; default: %(default)s",
    )
    add("--no-flips", action="store_true", help="do not train on mirrored images")
    add("--no-crops", action="store_true", help="do not train on the corners of images")
    options.add_number(parser, "--learning-rate", 0.01, "of the descent", float)
    options.add_number(
        parser,
        "--batch-size",
        None,
        "views of images in a step; default: the paper's, 32 for VGG-16 and ResNet-50, else 64",
        show_default=False,
    )
    options.add_number(parser, "--epochs", 100, "at most so many")
    options.add_number(parser, "--patience", 5, "epochs in which the loss must fall, see --stop")
    options.add_workers(parser)
    parser.set_defaults(command=_finetune)


def _finetune(arguments: argparse.Namespace) -> None:
    if arguments.output.exists():
        raise CliError(f"the output {arguments.output} exists already; name a new folder")
    if arguments.stop == "validation" and arguments.validation_split is None:
        raise CliError("--stop validation needs --validation-split")
    from jaxplain import data, models
    from jaxplain.training.finetune import finetune

    splits = [arguments.split, arguments.validation_split]
    train, *validation = (
        data.open_source(arguments.data, split, data_dir=arguments.data_dir)
        for split in splits
        if split is not None
    )
    checkpoint = arguments.output.with_name(f"{arguments.output.name}.checkpoint")
    with Bar("done") as progress:
        result = finetune(
            load_model(arguments),
            train,
            *validation,
            loss=arguments.loss,
            stop=arguments.stop,
            flips=not arguments.no_flips,
            crops=not arguments.no_crops,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            patience=arguments.patience,
            checkpoint=checkpoint,
            workers=arguments.workers,
            progress=progress,
        )
    datasets.show_failures(result.failures)
    models.save_pretrained(result.network, arguments.output)
    for split, (left_out, images) in zip(splits, result.left_out, strict=False):
        if left_out:
            print(f"{split}: {left_out} of {images} images left out, which have not one class")
    told = f"{len(result.losses)} epochs"
    if result.mean_average_precision is not None:
        told += (
            f"; mean average precision on {arguments.validation_split}: "
            f"{100 * result.mean_average_precision:.1f} %"
        )
    print(f"{told}\nwrote {arguments.output}")
