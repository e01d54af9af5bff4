"""Any method of the catalogue on any network: what the tests of every method share."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

import jaxplain
from jaxplain.explainers.catalogue import CATALOGUE

#: The methods that need no attention in the network.
OF_ANY_NETWORK = {name: method for name, method in CATALOGUE.items() if not method.attention}

#: So little of what a method does many times, by the arguments that say how often.
FEW = {"samples": 2, "steps": 2}

#: What keeps a map from being 0 everywhere: of magnitudes the contrastive gradient is.
NOT_EMPTY: dict[str, dict[str, Any]] = {"c-gradient": {"reduce": "sum"}}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    """The parameters of a method's function."""
    return dict(inspect.signature(getattr(jaxplain, CATALOGUE[name].function)).parameters)


def takes_several_layers(name: str) -> bool:
    annotation = getattr(parameters(name).get("layer"), "annotation", None)
    return annotation in ("Layer", "Layers")


def fit(layer: str = "out", channels: int = 6, classes: int = 4) -> jaxplain.FittedCam:
    """Weights for `fitted_cam`, by default of the networks of `nets.convnet`."""
    weight = jnp.linspace(-1, 1, channels * classes).reshape(channels, classes)
    return jaxplain.FittedCam(weight, jnp.zeros(classes), jnp.ones(classes), layer)


def options(name: str, **given: Any) -> dict[str, Any]:
    """What the method must be given, little of what takes long, and what is given."""
    takes = parameters(name)
    found = {**CATALOGUE[name].options, **{k: v for k, v in FEW.items() if k in takes}}
    if "key" in takes:
        found["key"] = jax.random.key(5)
    if CATALOGUE[name].needs == "fit":
        found["fit"] = fit()
    return found | NOT_EMPTY.get(name, {}) | given


def explain(name: str, fn: Any, x: Any, targets: Any, **given: Any) -> Any:
    """What the method's function returns: maps, or a record of them."""
    function = getattr(jaxplain, CATALOGUE[name].function)
    classes = (targets,) if CATALOGUE[name].per_class else ()
    return function(fn, x, *classes, **options(name, **given))
