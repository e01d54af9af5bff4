"""How a method of the catalogue is called: its arguments, and it as a function of images."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxplain.explainers.catalogue import CATALOGUE

if TYPE_CHECKING:
    import jax

    from jaxplain.models import ModelConfig


@functools.cache
def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """The keyword arguments of a method's function, with their annotations as types.

    >>> str(parameters("gradient")["layer"].default)
    'input'
    """
    import importlib

    method = CATALOGUE[name]
    module = importlib.import_module(f"jaxplain.explainers.{method.file}")
    signature = inspect.signature(getattr(module, method.function), eval_str=True)
    return {k: p for k, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}


def takes_layer(name: str) -> bool:
    """Whether a method can be explained at a layer that is named.

    >>> takes_layer("gradient"), takes_layer("occlusion")
    (True, False)
    """
    return "layer" in parameters(name)


def explainer(
    name: str, config: ModelConfig | None, layer: Any = None, **more: Any
) -> Callable[[Any, jax.Array, Any], Any]:
    """A method as a function (network, images, targets) to maps.

    It is explained at ``layer``, a name or several; for None at the layer that the network's
    ``config`` knows for it, else the function's own default. ``more`` are further options.

    Raises:
        ValueError: a layer is named, and the method takes none.
    """
    import jax

    import jaxplain

    method = CATALOGUE[name]
    options = {**method.options, **more}
    if layer is not None:
        if not takes_layer(name):
            raise ValueError(f"{name} is explained at the image, and takes no layer.")
        options["layer"] = layer
    elif method.at_layer and config is not None and method.layer is not None:
        options.setdefault("layer", config.layer(method.layer))
    if method.random:
        options.setdefault("key", jax.random.key(0))
    explain = getattr(jaxplain, method.function)
    if not method.per_class:
        return lambda network, x, targets: explain(network, x, **options)
    return lambda network, x, targets: explain(network, x, targets, **options)
