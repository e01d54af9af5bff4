"""What a network under test is, its images, and its random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = 5


@dataclass(frozen=True)
class Cut:
    """One way to cut a network: the maps ``(B, h, w, C)`` below, and the scores of them."""

    features: Callable[[jax.Array], jax.Array]
    head: Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Network:
    """A network, images for it, its last cuts (uppermost first), and whether its units are ReLU."""

    name: str
    fn: Callable[[jax.Array], jax.Array]
    x: jax.Array
    cuts: tuple[Cut, ...]
    relus: bool


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
