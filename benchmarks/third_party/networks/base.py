"""What a network under test is, its images, and its random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 5


@dataclass(frozen=True)
class Between:
    """A norm, or a dense layer and its activation, between the global pool and the last layer.

    Attributes:
        values: what it makes of the pooled ``(B, C)``: ``(B, D)``.
        weights: those of the last layer, ``(D, N)``.
        kernel: those of a dense layer, ``(C, D)``; None for a norm.
    """

    values: Callable[[jax.Array], jax.Array]
    weights: np.ndarray
    kernel: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Cut:
    """One way to cut a network: the value below, the scores of it, and its view ``(B, h, w, C)``.

    The value may be tokens, some of which have no place, and a skip may pass by it: ``passing``
    gives the scores of images, from which the skip comes, and value.
    """

    features: Callable[[jax.Array], jax.Array]
    head: Callable[[jax.Array], jax.Array]
    maps: Callable[[jax.Array], jax.Array] = lambda value: value
    between: Between | None = None
    passing: Callable[[jax.Array, jax.Array], jax.Array] | None = None

    def scores(self, x: jax.Array, value: jax.Array) -> jax.Array:
        """Those of a value, where skips past it come from images."""
        return self.head(value) if self.passing is None else self.passing(x, value)


def tapped(
    run: Callable[[jax.Array, jax.Array | None], tuple[jax.Array, jax.Array]],
    x: jax.Array,
    maps: Callable[[jax.Array], jax.Array] = lambda value: value,
) -> Cut:
    """The cut at a value of a network.

    Args:
        run: Images and, or None, what the value is replaced by -> the scores and the value.
        x: The images that a skip past the value comes from.
        maps: The view of the value.
    """

    def head(value: jax.Array) -> jax.Array:
        return run(x[np.arange(len(value)) % len(x)], value)[0]

    passing = lambda x, value: run(x, value)[0]  # noqa: E731
    return Cut(lambda x: run(x, None)[1], head, maps, passing=passing)


def tokens(prefix: int = 0) -> Callable[[jax.Array], jax.Array]:
    """The view of tokens ``(B, prefix + side * side, C)``."""

    def maps(value: jax.Array) -> jax.Array:
        side = math.isqrt(value.shape[1] - prefix)
        return value[:, prefix:].reshape(len(value), side, side, value.shape[2])

    return maps


@dataclass(frozen=True, eq=False)
class Attends:
    """What is known of a network all of whose softmaxes look from every token to every token.

    Attributes:
        prefix: how many tokens before those of the patches have no place.
        readers: the tokens that the scores read; none where they read the mean of the patches.
        blocks: the cuts behind the blocks, the last one's head giving the scores of all of them.
    """

    prefix: int
    readers: tuple[int, ...]
    blocks: tuple[Cut, ...]


@dataclass(frozen=True)
class Network:
    """A network, images for it, its last cuts (uppermost first), and whether its units are ReLU.

    ``narrow`` gives early maps ``(B, h, w, C)`` where the last ones have many channels; ``gates``
    are those of `jax.nn` that only multiply. ``attends`` is None where there is no attention, or of
    another kind.
    """

    name: str
    fn: Callable[[jax.Array], jax.Array]
    x: jax.Array
    cuts: tuple[Cut, ...]
    relus: bool
    narrow: Callable[[jax.Array], jax.Array] | None = None
    gates: tuple[str, ...] = ("sigmoid", "hard_sigmoid")
    attends: Attends | None = None


def images(size: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(7).uniform(-1, 1, (2, size, size, 3)))


def perturbed(name: str, value: Any, rng: np.random.Generator) -> np.ndarray:
    """The weight that a weight of this name becomes."""
    shape, last = np.shape(value), name.rpartition("/")[2]
    if last in ("gamma", "scale"):
        return rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < 0.2, -1, 1)
    if last in ("moving_variance", "variance"):
        return rng.uniform(0.5, 1.5, shape)
    if last in ("beta", "moving_mean", "bias", "offset", "mean", "b"):
        return rng.normal(0, 0.1, shape)
    return np.asarray(value)
