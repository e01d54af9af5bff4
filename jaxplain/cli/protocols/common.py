"""What the protocols share: their options, the choice of methods, networks, images and progress."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import add_data_options, add_model_options, suggest
from jaxplain.cli.progress import Progress
from jaxplain.explainers.catalogue import METHODS, canonical, explainer

if TYPE_CHECKING:
    import jax
    import numpy as np
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """What a protocol came to.

    Attributes:
      title: over the table.
      table: has ``markdown()``, ``to_json()`` and ``failures``, the (id, reason) of images.
      draw: makes the figure, when it is wanted.
    """

    title: str
    table: Any
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Protocol:
    """A protocol of the command line.

    Attributes:
      name, help, description: as they are typed and shown.
      methods: the ones that run when none are named.
      run: does it.
      options: adds what only this protocol has.
      limit: the default of ``--limit``.
      data: help of ``--data``.
      extra: methods that only this protocol knows.
      batch_size: the default of ``--batch-size``; None where images go one by one.
    """

    name: str
    help: str
    description: str
    methods: tuple[str, ...]
    run: Callable[[argparse.Namespace], Result]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    limit: int | None = None
    data: str = (
        "voc/2007, voc/2012, coco/2014, coco/2017, imagenet2012, caltech_birds2011 of TFDS; or a "
        "folder: VOCdevkit/VOC2007, COCO (with annotations/), ImageNet, CUB_200_2011"
    )
    extra: tuple[str, ...] = ()
    batch_size: int | None = 8


def add_options(parser: argparse.ArgumentParser, protocol: Protocol) -> None:
    """The options of all protocols, then the protocol's own."""
    add = parser.add_argument
    add_data_options(parser, protocol.data)
    add_model_options(parser)
    add(
        "--methods",
        default=",".join(protocol.methods),
        metavar="A,B,C",
        help="default: %(default)s",
    )
    add("--layer", metavar="NAME", help="layer of the methods that take one; default: their own")
    if protocol.batch_size is not None:
        add(
            "--batch-size",
            type=int,
            default=protocol.batch_size,
            metavar="N",
            help="default: %(default)s",
        )
    add(
        "--limit",
        type=int,
        metavar="N",
        default=protocol.limit,
        help=f"take the first N images only; default: {protocol.limit or 'all'}",
    )
    add(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that read images; default: 0, threads",
    )
    add(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"write {protocol.name}.json, .md and .png there",
    )
    protocol.options(parser)


def check(arguments: argparse.Namespace, extra: tuple[str, ...] = ()) -> None:
    """Finds what is wrong before anything is loaded; ``arguments.methods`` becomes a list.

    ``extra`` are methods besides those of the table.
    """
    known = [*METHODS, *extra]
    chosen = [canonical(name) for name in arguments.methods.split(",") if name.strip()]
    if not chosen:
        raise ValueError("no method given")
    for name in chosen:
        if name not in known:
            raise ValueError(f"unknown method {name!r}{suggest(name, known)}")
    arguments.methods = list(dict.fromkeys(chosen))
    at_layer = [name for name in chosen if name in METHODS and METHODS[name].at_layer]
    if arguments.layer is not None and not at_layer:
        raise ValueError("--layer has no effect: none of these methods is explained at a layer")
    for option in (
        "batch_size",
        "limit",
        "short",
        "multiple",
        "held_out",
        "steps",
        "patch",
        "flips",
    ):
        value = getattr(arguments, option, None)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be positive")
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"the output {arguments.output} is not a folder")


def open_data(arguments: argparse.Namespace, images: str | None = None) -> tuple[Any, range]:
    """The data set, and which of its records are wanted."""
    from jaxplain import data

    source = data.open_source(
        arguments.data, arguments.split, images=images, data_dir=arguments.data_dir
    )
    count = len(source) if arguments.limit is None else min(arguments.limit, len(source))
    return source, range(count)


def load_network(arguments: argparse.Namespace, *, fully_convolutional: bool = False) -> Any:
    """The network of ``--model`` and ``--network``."""
    from jaxplain import models

    return models.from_pretrained(
        arguments.model, network=arguments.network, fully_convolutional=fully_convolutional
    )


def cues(source: Any, config: Any) -> np.ndarray:
    """What each class of the data set is to the network's outputs."""
    from jaxplain import data

    count = len(config.class_names) or config.outputs
    return data.cue_signals(source.class_names, count, config.class_names)


def explainers(
    arguments: argparse.Namespace, network: Any, *, fully_convolutional: bool = False
) -> dict[str, Callable[[jax.Array, Any], jax.Array]]:
    """Method -> images and targets to maps, for the methods and the layer that were asked for."""
    found = {}
    for name in arguments.methods:
        # CAM is defined by a pool over the whole image, of any size.
        pooled = fully_convolutional and METHODS[name].function == "cam"
        own = load_network(arguments) if pooled else network
        found[name] = functools.partial(explainer(name, network.config, arguments.layer), own)
    return found


class Stretched:
    """A record to the pixels of the network's square; can be sent to worker processes."""

    def __init__(self, config: Any):
        self.size, self.interpolation = config.input_size, config.interpolation

    def __call__(self, record: Any) -> np.ndarray:
        from jaxplain import data

        return data.resize_image(record.image, (self.size, self.size), self.interpolation)


class Aspect:
    """A record to pixels of a short side, the aspect kept; can be sent to worker processes."""

    def __init__(self, arguments: argparse.Namespace, config: Any):
        self.short, self.multiple = arguments.short, arguments.multiple
        self.interpolation = config.interpolation

    def __call__(self, record: Any) -> np.ndarray:
        from jaxplain import data

        shape = data.aspect_shape(record.size, self.short, self.multiple)
        return data.resize_image(record.image, shape, self.interpolation)


def add_aspect(parser: argparse.ArgumentParser, short: int) -> None:
    """The options of `Aspect`."""
    parser.add_argument(
        "--short",
        type=int,
        default=short,
        metavar="N",
        help="short side of the images; default: %(default)s",
    )
    parser.add_argument(
        "--multiple",
        type=int,
        default=16,
        metavar="N",
        help="long sides are rounded to multiples of N pixels (every shape compiles anew); "
        "default: %(default)s",
    )


def progress(total: int, what: str = "images") -> Callable[[int], None]:
    """Shows how many of so many are done."""
    show = Progress(what)
    return lambda done: show(done, total)


def read_images(
    source: Any, indices: range, config: Any, arguments: argparse.Namespace
) -> tuple[jax.Array, tuple[tuple[str, str], ...]]:
    """The images as the network sees them, stretched to its square; (id, reason) of failures."""
    import jax.numpy as jnp
    import numpy as np

    from jaxplain import data

    pixels, failures = [], []
    for item in data.load(source, Stretched(config), indices=indices, workers=arguments.workers):
        if item.error is None:
            pixels.append(item.pixels)
        else:
            failures.append((item.error.record, item.error.reason))
    if not pixels:
        raise ValueError(f"none of the {len(failures)} images of {source.name} could be read")
    return data.normalise(jnp.asarray(np.stack(pixels)), config), tuple(failures)
