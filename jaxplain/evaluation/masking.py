"""What is left of a class where only what a map marks is shown (Chattopadhay et al. 2018).

Pure functions of arrays, for `jit` and `vmap`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxplain import postprocess

__all__ = ["average_drop", "increase_in_confidence", "masked"]


def masked(x: ArrayLike, maps: ArrayLike, baseline: ArrayLike = 0.0) -> jax.Array:
    """Images seen through their maps: ``m x + (1 - m) baseline``.

    With a baseline of 0 it is the explanation map of the paper's section 4.1, ``E = L * I``. ``m``
    is the positive part of the map over its maximum, resized bilinearly.

    Args:
        x: images ``(B, H, W, C)``.
        maps: ``(B, h, w)``.
        baseline: what shows where the map is zero or less: broadcasts to the images.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[4.0, 6.0]]).reshape(1, 1, 2, 1)
        >>> masked(x, jnp.array([[[-1.0, 2.0]]])).ravel().tolist()
        [0.0, 6.0]
    """
    x, maps = jnp.asarray(x), jnp.asarray(maps)
    if x.ndim != 4 or maps.ndim != 3 or len(x) != len(maps):
        raise ValueError(
            f"images must be (B, H, W, C) and maps (B, h, w), not {x.shape} and {maps.shape}"
        )
    share = postprocess.apply("panel", maps, (x.shape[1], x.shape[2]))[..., None]
    return share * x + (1 - share) * jnp.asarray(baseline, x.dtype)


def average_drop(before: ArrayLike, after: ArrayLike) -> jax.Array:
    """The mean of ``max(0, Y - O) / Y`` (section 4.1), a share: smaller is better.

    Args:
        before: ``(B,)``: Y, the class's probability for the whole image.
        after: ``(B,)``: O, the same for what the map shows of it.

    Example:
        >>> round(average_drop([0.5, 0.5], [0.25, 0.75]).item(), 3)
        0.25
    """
    before, after = jnp.asarray(before), jnp.asarray(after)
    positive = before > 0
    drop = jnp.where(positive, jnp.maximum(before - after, 0), 0)
    return (drop / jnp.where(positive, before, 1)).mean()


def increase_in_confidence(before: ArrayLike, after: ArrayLike) -> jax.Array:
    """The share of images with ``O > Y`` (section 4.1): larger is better.

    Example:
        >>> increase_in_confidence([0.5, 0.5], [0.25, 0.75]).item()
        0.5
    """
    return (jnp.asarray(after) > jnp.asarray(before)).mean()
