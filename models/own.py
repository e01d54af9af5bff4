"""A network of the user's own, by the name of what makes it: ``"module:function"``."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from jaxplain.models.config import ModelConfig

#: What a network's pixels may be -> (mean, scale) of pixels 0 to 255.
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "0..1": ((0.0,), (255.0,)),
    "-1..1": ((127.5,), (127.5,)),
    "0..255": ((0.0,), (1.0,)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_place(text: str) -> bool:
    """Whether a text names something to import.

    >>> is_place("my_nets.small:make"), is_place("hf:timm/vgg16"), is_place("vgg16")
    (True, False, False)
    """
    return _PLACE.fullmatch(text) is not None


def own_network(
    place: str,
    *,
    class_names: Sequence[str] | int | None = None,
    input_size: int | None = None,
    pixels: str | None = None,
) -> Any:
    """Imports a network, of whatever framework explainers take.

    Args:
        place: ``"module:name"``: a network, images ``(B, H, W, C)`` to scores ``(B, N)``; or a
            class or function that makes one when it is called without arguments. It may also give
            a pair, the network and its `ModelConfig`.
        class_names: names of the classes, one each score, or their number.
        input_size: height and width of its images, where it has no config.
        pixels: what its pixels are, one of ``PIXELS``, where it has no config.

    Returns:
        The network with a ``config``: the NNX module itself, or a callable that holds the network.

    Raises:
        ValueError: it cannot be imported or called, is no network of images, has another number of
            classes, or it is not known how it takes images.

    Example:
        >>> own_network("jax.numpy:tanh", input_size=8)
        Traceback (most recent call last):
        ...
        ValueError: 'jax.numpy:tanh' has no config: it is not known how it takes images. Say ...
    """
    found = _import(place)
    config = None
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], ModelConfig):
        found, config = found
    if not callable(found):
        raise ValueError(f"{place!r} gives {type(found).__name__}, which cannot be called")
    own = getattr(found, "config", None)
    if config is None and isinstance(own, ModelConfig):
        config = own
    config = _config(place, config, input_size, pixels)
    outputs = _outputs(place, found, config.input_size)
    given = config.class_names if class_names is None else class_names
    names = () if isinstance(given, int) else tuple(given)
    count = given if isinstance(given, int) else len(given) or outputs
    if count != outputs:
        raise ValueError(f"{place!r} has {outputs} scores, and not {count} classes")
    config = dataclasses.replace(config, class_names=names, outputs=outputs)
    return _with_config(found, config)


def _import(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module imports is missing
        raise ValueError(f"there is no module {module!r}, to import {place!r} from") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"the module {module!r} has no {path!r}")
        found = getattr(found, name)
    if not (inspect.isclass(found) or inspect.isroutine(found)):
        return found
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):  # it needs arguments, or tells nothing of them: a network
        if inspect.isclass(found):
            raise ValueError(
                f"{place!r} is a class that needs arguments: name a function that makes the network"
            ) from None
        return found
    return found()


def _config(
    place: str, config: ModelConfig | None, input_size: int | None, pixels: str | None
) -> ModelConfig:
    """The network's config, with what was said in place of its own."""
    if pixels is not None and pixels not in PIXELS:
        raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, not {pixels!r}")
    said: dict[str, Any] = {} if input_size is None else {"input_size": input_size}
    if pixels is not None:
        said |= dict(zip(("mean", "scale"), PIXELS[pixels], strict=True))
    if config is not None:
        return dataclasses.replace(config, **said)
    if len(said) != 3:
        raise ValueError(
            f"{place!r} has no config: it is not known how it takes images. Say input_size= and "
            f"pixels= ({', '.join(PIXELS)}), on the command line --input-size and --pixels; or "
            "let it give (network, jaxplain.models.ModelConfig(...))"
        )
    return ModelConfig(place.partition(":")[2], **said, crop_fraction=1.0)


def _outputs(place: str, network: Callable, size: int) -> int:
    import jax

    from jaxplain.core import trace

    image = jax.ShapeDtypeStruct((1, size, size, 3), "float32")
    try:
        scores: Any = jax.eval_shape(lambda x: trace(network, x)(x), image)
    except Exception as error:  # every framework has its own
        line = " ".join(str(error).split())
        raise ValueError(
            f"{place!r} does not take images (1, {size}, {size}, 3): {line}"
        ) from error
    shape: Any = getattr(scores, "shape", ())
    if len(shape) not in (2, 4) or shape[0] != 1:
        raise ValueError(
            f"{place!r} must give scores (B, N) or a score map (B, H, W, N); of one image it "
            f"gives {shape or type(scores).__name__}"
        )
    return shape[-1]


def _with_config(network: Any, config: ModelConfig) -> Any:
    own = getattr(network, "config", None)
    if isinstance(network, nnx.Module) and (own is None or isinstance(own, ModelConfig)):
        network.config = config  # pyright: ignore[reportAttributeAccessIssue]
        return network
    # A partial of an NNX module is traced as the module; Keras layers need their inference mode.
    holder: Any = functools.partial(_call, network) if _is_keras(network) else None
    holder = functools.partial(network) if holder is None else holder
    holder.config = config
    return holder


def _is_keras(network: Any) -> bool:
    import sys

    keras: Any = sys.modules.get("keras")
    return keras is not None and isinstance(network, keras.Layer)


def _call(network: Any, x: Any) -> Any:
    return network(x, training=False)
