"""How simple a map is, and how much it depends on small changes of the image.

Pure functions of arrays, for `jit` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxplain.core.numerics import safe_divide

__all__ = ["gini", "max_sensitivity"]


def gini(maps: ArrayLike) -> jax.Array:
    """Sparseness: the Gini index of the sizes of a map ``(..., H, W)``, ``(...)``.

    0 where all values have one size, towards 1 where few hold everything; 0 of a map of zeros. With
    the sizes ``v`` in ascending order it is ``1 - 2 sum_k v_k (n - k + 1/2) / (n sum v)``
    (Chalasani et al., *Concise explanations of neural networks using adversarial training*, ICML
    2020).

    Example:
        >>> import jax.numpy as jnp
        >>> gini(jnp.array([[[1.0, -1.0]], [[0.0, 4.0]], [[0.0, 0.0]]])).tolist()
        [0.0, 0.5, 0.0]
    """
    maps = jnp.asarray(maps)
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise ValueError(f"maps must have the shape (..., H, W) with pixels, not {maps.shape}")
    sizes = jnp.sort(jnp.abs(maps).reshape(*maps.shape[:-2], -1), axis=-1)
    n = sizes.shape[-1]
    places = n - jnp.arange(1, n + 1, dtype=sizes.dtype) + 0.5
    total = sizes.sum(-1)
    return jnp.where(total > 0, 1 - 2 * safe_divide((sizes * places).sum(-1), n * total), 0)


def max_sensitivity(
    explain: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    key: jax.Array,
    *,
    radius: float = 0.02,
    samples: int = 10,
) -> jax.Array:
    """The largest change of a map under small changes of the image, ``(B,)``: smaller is better.

    ``max |F(x + d) - F(x)| / |F(x)|`` over draws of ``d``, uniform in a box around zero (Yeh et
    al., *On the (in)fidelity and sensitivity of explanations*, NeurIPS 2019: their maximum
    sensitivity, divided by the size of the map, so that methods can be compared). 0 where a map
    stays zero.

    Args:
        explain: images ``(B, H, W, C)`` to maps ``(B, h, w)``.
        x: images ``(B, H, W, C)``.
        key: of `jax.random`.
        radius: half the side of the box, as a share of each image's range.
        samples: the number of draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jax.random.uniform(jax.random.key(1), (2, 4, 4, 3))
        >>> max_sensitivity(lambda x: jnp.ones(x.shape[:3]), x, jax.random.key(0)).tolist()
        [0.0, 0.0]
    """
    if samples < 1 or not radius > 0:
        raise ValueError(f"samples and radius must be positive, not {samples} and {radius}")
    x = jnp.asarray(x)
    maps = explain(x)
    axes = tuple(range(1, x.ndim))
    width = radius * (x.max(axes, keepdims=True) - x.min(axes, keepdims=True))

    def size(maps: jax.Array) -> jax.Array:
        return jnp.linalg.norm(maps.reshape(len(maps), -1), axis=-1)

    largest = jnp.zeros(len(x), maps.dtype)
    for draw in jax.random.split(key, samples):
        moved = explain(x + width * jax.random.uniform(draw, x.shape, x.dtype, -1, 1))
        largest = jnp.maximum(largest, size(moved - maps))
    return jnp.where(largest > 0, largest / jnp.maximum(size(maps), jnp.finfo(maps.dtype).tiny), 0)
