"""Max pools with a derivative that is made of shifted comparisons.

JAX's derivative of a windowed maximum is ``select_and_scatter``, which compilers run element by
element, and which holds a copy of the input for every signal of several. Here the place of each
window's maximum is found once, by comparing the maxima with the input shifted to each place of the
window; a signal is then masked, shifted and added up for each place. The numbers are the same, and
so is what happens where values are equal: the first of a window, row by row, takes the signal.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: Windows of more places than this are taken axis by axis, the last one first: the first maximum
#: of a window is the first in its row, of the first row that holds it.
_PLACES_AT_ONCE = 49


class Window(NamedTuple):
    """A windowed maximum, or ``minimum``, in the terms of ``lax.reduce_window``."""

    minimum: bool
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    base_dilation: tuple[int, ...]
    window_dilation: tuple[int, ...]


def is_pool(eqn: Any) -> bool:
    """Whether an equation is a windowed maximum or minimum that has a derivative."""
    return eqn.primitive.name in ("reduce_window_max", "reduce_window_min") and jnp.issubdtype(
        eqn.invars[0].aval.dtype, jnp.floating
    )


def pool(eqn: Any, x: jax.Array) -> jax.Array:
    """What an equation computes for which `is_pool` holds, with the derivative of this module."""
    p = eqn.params
    window = Window(
        eqn.primitive.name == "reduce_window_min",
        tuple(p["window_dimensions"]),
        tuple(p["window_strides"]),
        tuple(map(tuple, p["padding"])),
        tuple(p["base_dilation"]),
        tuple(p["window_dilation"]),
    )
    if math.prod(window.sizes) <= _PLACES_AT_ONCE:
        return _pool(window, x)
    for axis in reversed(range(x.ndim)):
        alone = _along(window, axis)
        if alone != _along(window, None):
            x = _pool(alone, x)
    return x


def _along(window: Window, axis: int | None) -> Window:
    """The same on one axis, and nothing on the others."""

    def only(values: tuple, nothing: Any) -> tuple:
        return tuple(v if i == axis else nothing for i, v in enumerate(values))

    return Window(
        window.minimum,
        only(window.sizes, 1),
        only(window.strides, 1),
        only(window.padding, (0, 0)),
        only(window.base_dilation, 1),
        only(window.window_dilation, 1),
    )


# A custom_jvp, not a custom_vjp: forward-mode derivatives stay, and the transpose of a masked and
# shifted sum is one too.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pool(window: Window, x: jax.Array) -> jax.Array:
    return lax.reduce_window(
        x,
        np.asarray(_start(window), x.dtype),
        lax.min if window.minimum else lax.max,
        window.sizes,
        window.strides,
        window.padding,
        window.base_dilation,
        window.window_dilation,
    )


@_pool.defjvp
def _pool_jvp(window: Window, primals: tuple, tangents: tuple) -> tuple:
    (x,), (tangent,) = primals, tangents
    y = _pool(window, x)
    best, values = lax.stop_gradient(y), lax.stop_gradient(x)
    places = list(itertools.product(*map(range, window.sizes)))
    spread = _spread(window, values, _start(window))
    first = jnp.full(y.shape, len(places), jnp.int8 if len(places) < 128 else jnp.int32)
    for number, place in reversed(list(enumerate(places))):
        value = _shifted(window, spread, place, y.shape)
        loses = value > best if window.minimum else value < best
        first = jnp.where(loses, first, number)
    # Kept as it is, and not found again from the input, which would be kept for it.
    first = lax.optimization_barrier(first)
    moving, total = _spread(window, tangent, 0), jnp.zeros_like(y)
    # Transposed, the places are added from the last to the first, as select_and_scatter does.
    for number, place in enumerate(places):
        total = total + jnp.where(
            first == number, _shifted(window, moving, place, y.shape), jnp.zeros_like(y)
        )
    return y, total


def _start(window: Window) -> float:
    return math.inf if window.minimum else -math.inf


def _spread(window: Window, x: jax.Array, filling: float) -> jax.Array:
    """The input with its padding, and with the holes of a dilated one."""
    dilated = zip(window.padding, window.base_dilation, strict=True)
    edges = [(low, high, n - 1) for (low, high), n in dilated]
    return lax.pad(x, jnp.asarray(filling, x.dtype), edges) if any(map(any, edges)) else x


def _shifted(window: Window, spread: jax.Array, place: tuple, shape: tuple) -> jax.Array:
    """What every window of a result of this shape holds at one of its places."""
    start = [i * n for i, n in zip(place, window.window_dilation, strict=True)]
    steps = zip(start, shape, window.strides, strict=True)
    return lax.slice(spread, start, [i + (n - 1) * k + 1 for i, n, k in steps], window.strides)
