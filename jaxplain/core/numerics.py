"""Arithmetic that rules and explainers share.

Every function keeps the dtype, works inside ``jit`` and ``vmap``, and has finite gradients wherever
its values are finite.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def positive(v: jax.Array) -> jax.Array:
    """``max(v, 0)``, elementwise."""
    return jnp.maximum(v, jnp.zeros_like(v))


def negative(v: jax.Array) -> jax.Array:
    """``min(v, 0)``, elementwise."""
    return jnp.minimum(v, jnp.zeros_like(v))


def safe_divide(p: jax.Array, z: jax.Array) -> jax.Array:
    """``p / z`` with broadcasting, and 0 where ``z`` is 0.

    >>> import jax.numpy as jnp
    >>> safe_divide(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[2.0], [0.0]])).tolist()
    [[0.5, 1.0], [0.0, 0.0]]
    """
    empty = z == 0
    # Both branches must be finite, or the gradient is NaN.
    return jnp.where(empty, jnp.zeros_like(p), p / jnp.where(empty, jnp.ones_like(z), z))


def stable_divide(p: jax.Array, z: jax.Array, eps: float) -> jax.Array:
    """``p / (z + eps * sign(z))`` with ``sign(0) = 1``, and 0 where that denominator is 0.

    >>> import jax.numpy as jnp
    >>> stable_divide(jnp.ones(3), jnp.array([0.0, 1.0, -1.0]), 1.0).tolist()
    [1.0, 0.5, -0.5]
    """
    return safe_divide(
        p, z + jnp.where(z >= 0, jnp.asarray(eps, z.dtype), jnp.asarray(-eps, z.dtype))
    )


def magnitude(v: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """The power of two at the largest size of ``v``, 1 for zeros; the axes are kept, of size 1.

    What is divided by it can be squared and summed without overflow, and loses no digit.

    >>> import jax.numpy as jnp
    >>> magnitude(jnp.array([[3.0, -9.0], [0.0, 0.0]]), (1,)).tolist()
    [[8.0], [1.0]]
    """
    wide = jnp.promote_types(v.dtype, jnp.float32)
    largest = jax.lax.stop_gradient(jnp.abs(v)).max(axes, keepdims=True).astype(wide)
    usual = (largest >= jnp.finfo(wide).tiny) & jnp.isfinite(largest)
    exponent = jnp.frexp(jnp.where(usual, largest, 1))[1] - 1
    return jnp.where(usual, jnp.ldexp(jnp.ones((), wide), exponent), 1).astype(v.dtype)


def all_but_batch(v: jax.Array) -> tuple[int, ...]:
    """The axes of a batch but the first: those over which an image's values are summed.

    >>> import jax.numpy as jnp
    >>> all_but_batch(jnp.zeros((2, 3, 4)))
    (1, 2)
    """
    return tuple(range(1, v.ndim))


def unit_l1(maps: jax.Array) -> jax.Array:
    """Each image's values divided by the sum of their sizes; zeros stay zeros.

    >>> import jax.numpy as jnp
    >>> unit_l1(jnp.array([[1.0, -3.0], [0.0, 0.0]])).tolist()
    [[0.25, -0.75], [0.0, 0.0]]
    """
    return safe_divide(maps, jnp.abs(maps).sum(all_but_batch(maps), keepdims=True))


def class_scores(scores: jax.Array) -> jax.Array:
    """Scores ``(B, N)`` as they are, and a score map ``(B, H, W, N)`` averaged over space.

    >>> import jax.numpy as jnp
    >>> class_scores(jnp.ones((2, 4, 4, 3))).shape
    (2, 3)
    """
    return scores.mean(tuple(range(1, scores.ndim - 1)))
