"""What `evaluate` and `explain-dataset` share: methods, data, networks, and how images are seen."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import suggest
from jaxplain.explainers.catalogue import CATALOGUE, METHODS, canonical, explainer

if TYPE_CHECKING:
    import jax
    import numpy as np


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
    at_layer = [
        name
        for name in chosen
        if (name in METHODS and METHODS[name].at_layer)
        or (name in CATALOGUE and CATALOGUE[name].needs == "fit")  # which is made at a layer
    ]
    if arguments.layer is not None and not at_layer:
        raise ValueError("--layer has no effect: none of these methods is explained at a layer")
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"the output {arguments.output} is not a folder")


def show_failures(failures: Iterable[tuple[str, str]], what: str = "could not be read") -> None:
    """One line on stderr per record that is missing from the result, with the reason."""
    for record, reason in failures:
        print(f"{what}: {record}: {reason}", file=sys.stderr)


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
