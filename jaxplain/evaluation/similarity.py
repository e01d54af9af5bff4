"""How alike two maps are: SSIM, rank correlation and similarity of histograms of gradients.

These are the measures of the sanity checks (Adebayo et al. 2018). They take maps ``(..., H, W)``
and give ``(...)``: pure functions for `jit` and `vmap`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["hog", "hog_similarity", "rank_correlation", "ssim"]

_HIGHEST = jax.lax.Precision.HIGHEST


def rank_correlation(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Spearman's rank correlation of maps ``(..., H, W)``; equal values share their mean rank.

    0 where a map is constant. Adebayo et al. use it with and without absolute values: pass
    ``abs(map)`` for the former.

    Example:
        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([[1.0, 2.0, 30.0]]), jnp.array([[5.0, 6.0, 7.0]])
        >>> round(rank_correlation(a, b).item(), 5), round(rank_correlation(a, -b).item(), 5)
        (1.0, -1.0)
    """
    a, b = _check(a, b)
    return _correlation(*(_ranks(v.reshape(*v.shape[:-2], -1)) for v in (a, b)))


def ssim(a: ArrayLike, b: ArrayLike, data_range: float = 1.0) -> jax.Array:
    """Structural similarity (Wang et al. 2004) of maps ``(..., H, W)``, at least 11 x 11 pixels.

    Gaussian windows of 11 x 11 pixels and a standard deviation of 1.5, K1 = 0.01, K2 = 0.03; the
    mean over the windows that lie in the map.

    Args:
        a, b: the maps; bring them to one scale before, for example by
            `jaxplain.postprocess.normalise_max`.
        data_range: the largest minus the smallest possible value: 1 for maps in [0, 1], 2 for [-1,
            1].

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.arange(256.0).reshape(16, 16) / 256
        >>> round(ssim(a, a).item(), 4), round(ssim(a, 1 - a).item(), 4) < 0.5
        (1.0, True)
    """
    a, b = _check(a, b)
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"ssim needs maps of at least 11 x 11 pixels, not {a.shape[-2:]}")
    mean_a, mean_b = _window(a), _window(b)
    var_a, var_b = _window(a * a) - mean_a**2, _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((-2, -1))


def hog(maps: ArrayLike, *, orientations: int = 9, cell: int = 16, block: int = 3) -> jax.Array:
    """Histograms of oriented gradients (Dalal and Triggs 2005): ``(..., H, W)`` to ``(..., F)``.

    Central differences (0 at the border), unsigned orientations without interpolation, cells of
    ``cell`` x ``cell`` pixels, overlapping blocks of ``block`` x ``block`` cells normalised by
    L2-Hys: as scikit-image's ``hog`` with its defaults.

    Raises:
        ValueError: the map is smaller than a block.
    """
    maps = jnp.asarray(maps)
    rows, columns = (n // cell for n in maps.shape[-2:])
    if min(rows, columns) < block:
        raise ValueError(
            f"hog needs maps of at least {cell * block} x {cell * block} pixels, not "
            f"{maps.shape[-2:]}"
        )
    none = [(0, 0)] * (maps.ndim - 2)
    down = jnp.pad(maps[..., 2:, :] - maps[..., :-2, :], [*none, (1, 1), (0, 0)])
    across = jnp.pad(maps[..., :, 2:] - maps[..., :, :-2], [*none, (0, 0), (1, 1)])
    degrees = jnp.rad2deg(jnp.arctan2(down, across)) % 180
    bins = jnp.floor(degrees * (orientations / 180)).astype(jnp.int32) % orientations
    votes = (
        jax.nn.one_hot(bins, orientations, dtype=maps.dtype) * jnp.hypot(down, across)[..., None]
    )
    votes = votes[..., : rows * cell, : columns * cell, :]
    cells = votes.reshape(*maps.shape[:-2], rows, cell, columns, cell, orientations).mean((-4, -2))
    spans = [np.arange(n - block + 1)[:, None] + np.arange(block) for n in (rows, columns)]
    blocks = cells[..., spans[0][:, None, :, None], spans[1][None, :, None, :], :]
    blocks = blocks.reshape(*blocks.shape[:-3], -1)
    blocks = jnp.minimum(_unit(blocks), 0.2)
    blocks = _unit(blocks)
    return blocks.reshape(*blocks.shape[:-3], -1)


def hog_similarity(a: ArrayLike, b: ArrayLike, **options: int) -> jax.Array:
    """Pearson's correlation of the `hog` features of two maps; 0 where a map is constant.

    Example:
        >>> import jax.numpy as jnp
        >>> a = jnp.zeros((48, 48)).at[20:30, 10:40].set(1.0)
        >>> round(hog_similarity(a, 2 * a).item(), 3), round(hog_similarity(a, a.T).item(), 1)
        (1.0, -0.1)
    """
    a, b = _check(a, b)
    return _correlation(hog(a, **options), hog(b, **options))


def _unit(blocks: jax.Array) -> jax.Array:
    return blocks / jnp.sqrt((blocks**2).sum(-1, keepdims=True) + 1e-10)


def _window(maps: jax.Array) -> jax.Array:
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = jnp.asarray(kernel / kernel.sum(), maps.dtype)
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        flat = jax.lax.conv(flat, kernel.reshape(shape), (1, 1), "VALID", precision=_HIGHEST)
    return flat.reshape(*maps.shape[:-2], *flat.shape[-2:])


def _ranks(values: jax.Array) -> jax.Array:
    flat = values.reshape(-1, values.shape[-1])

    def one(row: jax.Array) -> jax.Array:
        ordered = jnp.sort(row)
        below = jnp.searchsorted(ordered, row, side="left")
        not_above = jnp.searchsorted(ordered, row, side="right")
        return (below + not_above).astype(row.dtype) / 2

    return jax.vmap(one)(flat).reshape(values.shape)


def _correlation(a: jax.Array, b: jax.Array) -> jax.Array:
    # Asked of the values themselves: a mean is rounded, and leaves a little of a constant.
    varied = (a.max(-1) > a.min(-1)) & (b.max(-1) > b.min(-1))
    a, b = (v - v.mean(-1, keepdims=True) for v in (a, b))
    power = jnp.sqrt((a**2).sum(-1)) * jnp.sqrt((b**2).sum(-1))
    varied &= power > 0
    return jnp.where(varied, (a * b).sum(-1) / jnp.where(varied, power, 1), 0)


def _check(a: ArrayLike, b: ArrayLike) -> tuple[jax.Array, jax.Array]:
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim < 2 or a.shape != b.shape:
        raise ValueError(f"two maps must have one shape (..., H, W), not {a.shape} and {b.shape}")
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return a.astype(dtype), b.astype(dtype)
