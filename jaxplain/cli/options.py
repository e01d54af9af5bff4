"""The options that several commands have, each declared once."""

from __future__ import annotations

import argparse
from typing import Any

from jaxplain.cli.common import CliError, local_path


class _Positive(argparse.Action):
    """Refuses numbers that are not positive."""

    def __call__(self, parser, namespace, values: Any, option_string=None) -> None:
        if not values > 0:
            raise CliError(f"{option_string} must be positive")
        setattr(namespace, self.dest, values)


def add_number(
    parser: argparse.ArgumentParser,
    flag: str,
    default: float | None,
    text: str = "",
    kind: type = int,
    show_default: bool = True,
) -> None:
    """A positive number; its help is ``text``, and the default unless ``text`` says it."""
    if show_default:
        text = f"{text}; default: %(default)s" if text else "default: %(default)s"
    parser.add_argument(flag, action=_Positive, type=kind, default=default, metavar="N", help=text)


def add_model(
    parser: argparse.ArgumentParser, default: str | None = None, classes: str = "--classes"
) -> None:
    """``--model`` and what tells more of it; the model must be named if there is no default.

    ``classes`` is what the option of the network's classes is called.
    """
    text = "network, see 'jaxplain models'; a file of weights; or MODULE:NAME, a network of your "
    text += "own that Python can import, or a function that makes it"
    text += "" if default is None else "; default: %(default)s"
    parser.add_argument(
        "--model",
        required=default is None,
        default=default,
        metavar="NAME|FILE|MODULE:NAME",
        help=text,
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="the network that a file is for, where its tensors fit several",
    )
    add_classes(parser, classes)
    parser.add_argument(
        "--input-size",
        action=_Positive,
        type=int,
        metavar="N",
        help="height and width of the images of MODULE:NAME, where it has no config that says it",
    )
    parser.add_argument(
        "--pixels",
        choices=("0..1", "-1..1", "0..255", "imagenet"),
        help="what the pixels of MODULE:NAME are; imagenet: less the mean of ImageNet, over its "
        "deviation, as torchvision",
    )


def add_classes(parser: argparse.ArgumentParser, flag: str = "--classes") -> None:
    """``--classes``, those of the network."""
    parser.add_argument(
        flag,
        dest="class_names",
        metavar="FILE|N",
        help="a file with the names of the network's classes, one a line, or their number, where "
        "it is not the usual one",
    )


def add_data(parser: argparse.ArgumentParser, text: str, split: str | None = None) -> None:
    """``--data``, of which ``text`` says what it can be, ``--split`` and ``--data-dir``.

    The split must be named where ``split`` says what it is for.
    """
    add = parser.add_argument
    add("--data", required=True, metavar="NAME|FOLDER", help=text)
    usual = "such as test or val2017; default: the data set's usual one, or all images of a folder"
    add("--split", required=split is not None, metavar="NAME", help=split or usual)
    add("--data-dir", metavar="FOLDER", help="where TFDS keeps its data")


def add_methods(parser: argparse.ArgumentParser, default: str, text: str = "") -> None:
    """``--methods``."""
    text = f"; {text}" if text else ""
    parser.add_argument(
        "--methods", default=default, metavar="A,B,C", help=f"default: %(default)s{text}"
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int, text: str = "") -> None:
    """``--batch-size``."""
    add_number(parser, "--batch-size", default, text or "images at once")


def add_limit(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """``--limit``."""
    parser.add_argument(
        "--limit",
        action=_Positive,
        type=int,
        default=default,
        metavar="N",
        help=f"take the first N images only; default: {default or 'all'}",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """``--workers``."""
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read images; default: 0, threads",
    )


def add_held_out(parser: argparse.ArgumentParser, what: str) -> None:
    """``--held-out``, on which ``what`` is chosen."""
    parser.add_argument(
        "--held-out",
        action=_Positive,
        type=int,
        metavar="N",
        help=f"images, drawn at random, on which {what} is chosen; default: a tenth",
    )


def add_aspect(parser: argparse.ArgumentParser, short: int, multiple: int = 1) -> None:
    """``--short`` and ``--multiple``, of `datasets.Aspect`."""
    add_number(parser, "--short", short, "short side of the images")
    add_number(
        parser,
        "--multiple",
        multiple,
        "the long side exceeds the short one by a multiple of N pixels: 1 keeps the aspect "
        "exactly; every shape compiles anew, and 16 makes few of them",
    )


def add_output(parser: argparse.ArgumentParser, text: str, **more: Any) -> None:
    """``--output``, a folder."""
    parser.add_argument("--output", type=local_path, metavar="FOLDER", help=text, **more)
