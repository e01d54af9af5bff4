"""What `evaluate` and `explain-dataset` share: methods, data, networks, and how images are seen."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import load_model
from jaxplain.cli.method_options import choices
from jaxplain.core.addresses import is_address
from jaxplain.explainers.catalogue import CATALOGUE, METHODS
from jaxplain.explanation.choice import Choice, names_of_methods

if TYPE_CHECKING:
    import jax
    import numpy as np


def check(arguments: argparse.Namespace, extra: tuple[str, ...] = ()) -> None:
    """Finds what is wrong before anything is loaded, and what was asked of each method.

    ``arguments.methods`` becomes a list, and ``arguments.choices`` a `Choice` for each. ``extra``
    are methods besides those of the table.
    """
    known = [*METHODS, *extra]
    arguments.methods = names_of_methods(arguments.methods.split(","), known)
    arguments.choices = choices(arguments.methods, arguments.settings, arguments.layer)
    for choice in arguments.choices.values():
        _ = choice.one_layer  # says so if there are several
    if arguments.output is not None and not is_address(arguments.output):
        output = Path(arguments.output)
        if output.exists() and not output.is_dir():
            raise ValueError(f"the output {output} is not a folder")


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


def cues(source: Any, config: Any) -> np.ndarray:
    """What each class of the data set is to the network's outputs."""
    from jaxplain import data

    count = len(config.class_names) or config.outputs
    return data.cue_signals(source.class_names, count, config.class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A method that is ready to run.

    Attributes:
        choice: what was asked of it.
        network: that it explains.
        explain: a network, images and targets to maps.
    """

    choice: Choice
    network: Any
    explain: Callable[[Any, jax.Array, Any], Any]

    def __call__(self, x: jax.Array, targets: Any) -> Any:
        return self.explain(self.network, x, targets)


class Methods(dict[str, Prepared]):
    """Title -> method, for those that the network allows.

    Attributes:
        left_out: title -> why the network does not allow it.
    """

    left_out: dict[str, str]


def prepared(
    arguments: argparse.Namespace,
    network: Any,
    *,
    fully_convolutional: bool = False,
    leave_out: bool = True,
    fit: Any = None,
) -> Methods:
    """The methods that were asked for; ``fit`` is what a method needs that learns from images.

    One that the network does not allow, as CAM a network without a global pool, is said on stderr
    and left out; without ``leave_out`` it is an error.

    Raises:
        ValueError: the network allows none of them.
    """
    from jaxplain.models.own import is_place

    found = Methods()
    found.left_out = {}
    for name, choice in arguments.choices.items():
        # CAM is defined by a pool over the whole image, of any size.
        pooled = fully_convolutional and CATALOGUE[name].function in ("cam", "contrastive_cam")
        pooled = pooled and not is_place(arguments.model)  # which is as it is
        own = load_model(arguments) if pooled else network
        more = {"fit": fit} if CATALOGUE[name].needs == "fit" else {}
        method = Prepared(choice, own, choice.explainer(network.config, **more))
        reason = _refusal(method)
        if reason is None:
            found[choice.title] = method
        elif leave_out:
            found.left_out[choice.title] = reason
            print(f"{choice.title} left out: {reason}", file=sys.stderr)
        else:
            raise ValueError(f"{choice.title}: {reason}")
    if not found:
        raise ValueError(f"{network.config.name} allows none of these methods")
    return found


def _refusal(method: Prepared) -> str | None:
    """Why the network does not allow the method; it is traced, not run."""
    import jax

    from jaxplain.core import UnsuitableNetworkError, UnsupportedOperationError

    size = method.network.config.input_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    outputs = jax.eval_shape(method.network, image).shape[-1]
    signal = jax.ShapeDtypeStruct((1, outputs), "float32")
    try:
        jax.eval_shape(method, image, signal)
    except (UnsuitableNetworkError, UnsupportedOperationError) as error:
        return " ".join(str(error).split())
    return None


class Stretched:
    """A record to the pixels of the network's square; can be sent to worker processes."""

    def __init__(self, config: Any):
        self.size, self.interpolation = config.input_size, config.interpolation

    def __call__(self, record: Any) -> np.ndarray:
        from jaxplain import data

        return data.resize_image(record.image, (self.size, self.size), self.interpolation)


_LONGEST_ASPECT = 16


class Aspect:
    """A record to pixels of a short side, the aspect kept; can be sent to worker processes.

    Raises:
        data.UnreadableRecordError: the image is a strip, whose pixels no device could hold.
    """

    def __init__(self, arguments: argparse.Namespace, config: Any):
        self.short, self.multiple = arguments.short, arguments.multiple
        self.interpolation = config.interpolation

    def __call__(self, record: Any) -> np.ndarray:
        from jaxplain import data

        if max(record.size) > _LONGEST_ASPECT * min(record.size):
            height, width = record.size
            raise data.UnreadableRecordError(
                record.id, f"it has {height} x {width} pixels; the aspect is limited to 1:16"
            )
        shape = data.aspect_shape(record.size, self.short, self.multiple)
        return data.resize_image(record.image, shape, self.interpolation)


def view(arguments: argparse.Namespace, network: Any) -> Stretched | Aspect:
    """How the network sees images: with their aspect, or stretched if it takes no shape but one."""
    from jaxplain.models.own import is_place

    config = network.config
    reason = _one_shape(network, config.input_size) if is_place(arguments.model) else None
    if reason is None:
        return Aspect(arguments, config)
    print(
        f"{config.name} takes images of {config.input_size} x {config.input_size} only ({reason}): "
        "they are stretched, and --short and --multiple have no effect",
        file=sys.stderr,
    )
    return Stretched(config)


def _one_shape(network: Any, size: int) -> str | None:
    """Why a network takes no image but its square, if that is so; it is traced, not run."""
    import jax

    image = jax.ShapeDtypeStruct((1, size, size + 16, 3), "float32")
    try:
        jax.eval_shape(network, image)
    except Exception as error:  # every framework has its own for shapes that do not fit
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None


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
