"""What the tests of tracing share: what jax itself finds, and what a program consists of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import nets
import numpy as np

import jaxplain

X = jnp.asarray(nets.images(3, batch=2, size=6), jnp.float32)


def array(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(nets.normal(seed, *shape, scale=0.5), jnp.float32)


def features(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.nn.relu(nets.conv(x, kernel, padding=(1, 1)))


def slope(fn: Any, x: jax.Array = X) -> jax.Array:
    """What `jaxplain.gradient` of class 1 must be at the images: jax's own gradient.

    ``fn.alone``, if there is one, is the same network as jax can differentiate it.
    """
    call = getattr(fn, "alone", fn)
    return jnp.abs(jax.grad(lambda x: call(x)[:, 1].sum())(x)).max(-1)


def check_gradient(fn: Any, x: jax.Array = X) -> np.ndarray:
    """The map of `fn`; an error unless it is jax's gradient."""
    found = jaxplain.gradient(fn, x, 1, layer="input")
    assert nets.relative_error(found, slope(fn, x)) < 1e-5
    return np.asarray(found)


@contextlib.contextmanager
def compilations() -> Iterator[list]:
    """A list of what compiles within it."""
    found = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of those within it."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from equations(inner)


def program(fn: Callable) -> list:
    """The equations of a function of the images."""
    return list(equations(jax.make_jaxpr(fn)(X)))
