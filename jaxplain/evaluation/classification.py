"""How well scores tell which classes an image holds: average precision, and its mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = ["average_precision", "mean_average_precision"]


def average_precision(scores: ArrayLike, present: ArrayLike) -> jax.Array:
    """Average precision of each class: the sum over thresholds of (recall gained) x precision.

    Precision as it is, not interpolated as `phrases.average_precision` of detections is. Equal
    scores pass a threshold together, so that the order of the images does not matter.

    Args:
        scores: ``(N, K)`` or ``(N,)``, the higher the more likely.
        present: bool, of the same shape: whether image n shows class k.

    Returns:
        float32 ``(K,)`` or a scalar; NaN for a class that no image shows.

    Raises:
        ValueError: the shapes differ, or there is no image.

    Example:
        >>> import jax.numpy as jnp
        >>> average_precision(jnp.array([0.9, 0.8, 0.7]), jnp.array([True, False, True])).item()
        0.8333333730697632
    """
    scores, present = jnp.asarray(scores), jnp.asarray(present, bool)
    if scores.shape != present.shape or scores.ndim not in (1, 2) or not len(scores):
        raise ValueError(
            f"scores and present must both be (N, K) or (N,), not {scores.shape} and "
            f"{present.shape}"
        )
    order = jnp.argsort(-scores, axis=0)
    ranked = jnp.take_along_axis(scores, order, axis=0)
    right = jnp.take_along_axis(present, order, axis=0)
    rank = jnp.arange(1, len(scores) + 1).reshape(-1, *(1,) * (scores.ndim - 1))
    precision = jnp.cumsum(right, axis=0) / rank
    # Of equal scores, all have the precision of the last one.
    last = jnp.concatenate([ranked[1:] != ranked[:-1], jnp.ones_like(ranked[:1], bool)])
    at = jax.lax.cummin(jnp.where(last, rank, len(scores)), axis=0, reverse=True) - 1
    precision = jnp.take_along_axis(precision, at, axis=0)
    count = right.sum(0)
    total = jnp.where(right, precision, 0).sum(0)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan).astype(jnp.float32)


def mean_average_precision(scores: ArrayLike, present: ArrayLike) -> jax.Array:
    """Mean of `average_precision` over the classes that occur; arguments ``(N, K)``.

    Example:
        >>> import jax.numpy as jnp
        >>> scores = jnp.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
        >>> mean_average_precision(scores, jnp.array([[True, False, False], [False, True, False]]))
        Array(1., dtype=float32)
    """
    return jnp.nanmean(average_precision(scores, present))
