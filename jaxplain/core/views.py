"""Maps in values of which the analysis of axes cannot know how they lie: the user says it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core.axes import Axes, Axis, Factor, Layout, single
from jaxplain.core.graph import Graph


@dataclasses.dataclass(frozen=True)
class Rearranged:
    """How maps lie in a value, as a function of the user's says it; it serves as a `Layout` does.

    Views of functions that rearrange values alike are equal, so that nothing compiles again for a
    function that is made anew at every call.

    Attributes:
        batch, height, width, channels: of the maps.
        axes: what the axes of the value mean by it; None where the function does more than lay
            out one axis, or two, as maps and leave out what is before and behind them.
    """

    batch: int
    height: int
    width: int
    channels: int
    axes: Axes | None
    digest: bytes
    function: Callable[[jax.Array], jax.Array] = dataclasses.field(compare=False)

    def maps(self, value: jax.Array) -> jax.Array:
        """The maps ``(B, h, w, C)`` in a value."""
        return self.function(value)

    def edit(self, value: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The value with ``function(maps)`` in place of its maps; what is no map stays."""
        maps, back = jax.vjp(self.function, value)
        (chosen,) = back(jnp.ones_like(maps))
        (edited,) = back(function(maps).astype(maps.dtype))
        return jnp.where(chosen > 0, edited, value)


def view(graph: Graph, name: str, tokens: Any) -> Layout | Rearranged:
    """How maps lie in a layer, by the word of the user.

    Raises:
        TypeError: ``tokens`` is neither a pair of ints nor a function.
        ValueError: it does not fit the layer.
    """
    v, batch = graph.layer(name), graph.inputs[0].aval.shape[0]
    known = graph.places.axes.get(v, ())
    return view_of(graph.describe(name), tuple(v.aval.shape), known, batch, tokens)


def view_of(
    what: str, shape: tuple[int, ...], known: Axes, batch: int, tokens: Any
) -> Layout | Rearranged:
    """The same of any value: ``what`` it is in messages, and what is ``known`` of its axes."""
    if callable(tokens):
        return _rearranged(what, shape, batch, tokens)
    pair = isinstance(tokens, tuple | list) and len(tokens) == 2
    if not pair or not all(isinstance(n, int | np.integer) for n in tokens):
        raise TypeError(
            "tokens must be a pair (height, width) of ints or a function from a layer's values to "
            f"maps (B, h, w, C), not {tokens!r}"
        )
    h, w = map(int, tokens)
    return _grid(what, shape, known, batch, h, w)


def _grid(what: str, shape: tuple, known: Axes, batch: int, h: int, w: int) -> Layout:
    """The one axis that holds all positions, or the two neighbours that do, after the images."""
    found = [(d,) for d in range(1, len(shape)) if shape[d] == h * w]
    found += [(d, d + 1) for d in range(1, len(shape) - 1) if shape[d : d + 2] == (h, w)]
    if len(found) > 1 and known:
        found = [own for own in found if not any(known[d].kinds == {"channel"} for d in own)]
    if min(h, w) < 1 or shape[0] != batch or len(found) != 1:
        raise ValueError(
            f"tokens=({h}, {w}) does not fit {what}: after an axis of the {batch} "
            f"images, one axis must be the {max(h * w, 0)} positions, or two neighbours {h} and "
            f"{w}; else give a function to maps (B, h, w, C), such as "
            "lambda v: v[:, 1:].reshape(len(v), h, w, -1) where a class token leads"
        )
    axes = [single("batch", batch), *(single("channel", n) for n in shape[1:])]
    factors = (Factor("height", h), Factor("width", w))
    for d, own in zip(found[0], (factors,) if len(found[0]) == 1 else factors, strict=True):
        own = own if isinstance(own, tuple) else (own,)
        axes[d] = Axis(tuple(f for f in own if f.size != 1))
    layout = Layout.of(tuple(axes))
    if layout is None:
        raise ValueError(f"tokens=({h}, {w}) is a single position; maps have more")
    return layout


def _rearranged(what: str, shape: tuple, batch: int, function: Callable) -> Rearranged:
    size = math.prod(shape)
    try:
        with jax.ensure_compile_time_eval():
            order = np.asarray(function(jnp.arange(size).reshape(shape)))
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"the function tokens fails at {what}: {error}") from error
    if order.ndim != 4 or len(order) != batch:
        raise ValueError(
            f"the function tokens must make maps ({batch}, h, w, C) of {what}, but "
            f"makes an array of shape {order.shape}"
        )
    if order.dtype.kind not in "iu" or len(np.unique(order)) < order.size:
        raise ValueError(
            f"the function tokens must only rearrange the values of {what} or "
            "leave some out (reshape, transpose, slice), not compute with them or repeat them"
        )
    images = np.arange(batch).reshape(batch, 1)
    if shape[0] == batch and (order.reshape(batch, -1) // (size // batch) != images).any():
        raise ValueError(
            f"the function tokens mixes the images of {what}: its first axis must stay the first"
        )
    digest = hashlib.sha256(np.ascontiguousarray(order).tobytes()).digest()
    b, h, w, channels = order.shape
    return Rearranged(b, h, w, channels, _axes_by(order, shape), digest, function)


def _axes_by(order: np.ndarray, shape: tuple[int, ...]) -> Axes | None:
    """The axes of a value of which ``order`` are the numbers that make maps ``(B, h, w, C)``."""
    batch, h, w, channels = order.shape
    axes, kept = [], 1
    for n, places in zip(shape, np.unravel_index(order, shape), strict=True):
        moving = {d for d in range(4) if (places != places.take([0], d)).any()}
        first, last = int(places.min()), int(places.max())
        if moving and moving <= {1, 2}:
            sides = [("height", h, 1 in moving), ("width", w, 2 in moving)]
            factors = tuple(Factor(kind, size) for kind, size, moves in sides if moves)
            picked = places[0, : h if 1 in moving else 1, : w if 2 in moving else 1, 0].ravel()
            if (picked != first + np.arange(picked.size)).any():
                return None
            axes.append(Axis(factors, first, n - 1 - last))
        elif len(moving) > 1 or last - first + 1 < n:
            return None
        else:
            kind = "batch" if 0 in moving else "channel"
            axes.append(single(kind, n))
            kept *= n if kind == "channel" else 1
    return tuple(axes) if kept == channels else None
