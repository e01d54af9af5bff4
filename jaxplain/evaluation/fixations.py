"""Comparing maps with where people looked: fixation maps, and the scores of saliency research.

Every score takes a map ``(..., H, W)`` and a human one that broadcasts against it, and gives
``(...)``: pure functions that work inside `jit`, `vmap` and `grad`. Maps are compared as they are;
what has to be scaled is said in each score.

======== ================== ======================= ==============================================
score    compares with      best, chance            unchanged by
======== ================== ======================= ==============================================
`mae`    a density          0                       nothing: bring both maps to [0, 1] first
`nss`    fixations          large, 0                scale and offset of the map
`auc_judd` fixations        1, 0.5                  any increasing function of the map
`cc`     a density          1, 0                    scale and offset of both
`sim`    a density          1                       scale and offset of both
`kl`     a density          0                       scale of both
======== ================== ======================= ==============================================

References: Ebrahimpour et al., *Do humans look where deep convolutional neural networks "attend"?*,
ISVC 2019; Bylinskii et al., *What do different evaluation metrics tell us about saliency models?*,
IEEE TPAMI 2019.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxplain.core.numerics import safe_divide

__all__ = ["SCORES", "auc_judd", "cc", "centre_map", "fixation_map", "kl", "mae", "nss", "sim"]

_SPACE = (-2, -1)
_HIGHEST = jax.lax.Precision.HIGHEST


def fixation_map(
    fixations: ArrayLike, shape: tuple[int, int], *, sigma: float = 20.0, size: int = 80
) -> jax.Array:
    """The map of attention that eye tracking gives (Ebrahimpour et al. 2019, section 2).

    Durations are added up at the pixels that were looked at, the whole is divided by its maximum
    and convolved with a Gaussian of standard deviation ``sigma``, cut to ``size x size`` pixels and
    normalised to a sum of one, zeros outside the image. An even kernel has no middle pixel; as in
    MATLAB's ``conv2(..., "same")`` it then lies half a pixel towards the origin.

    Args:
        fixations: ``(..., n, 3)``: row, column and duration of each, all observers together. Those
            outside the image and those of no duration count nothing, so that shorter lists can be
            filled up with zeros.
        shape: height and width of the image.
        sigma: standard deviation in pixels, > 0; the paper's is 20.
        size: side of the kernel in pixels, >= 1; the paper's is 80.

    Returns:
        Maps ``(..., H, W)``, non-negative; zeros where there is no fixation.

    Raises:
        TypeError: ``fixations`` is not of a float dtype.
        ValueError: another shape, or ``sigma`` or ``size`` out of range.

    >>> import jax.numpy as jnp
    >>> points = jnp.array([[5.0, 5.0, 200.0], [5.0, 5.0, 100.0], [1.0, 8.0, 150.0]])
    >>> m = fixation_map(points, (11, 11), sigma=1.0, size=9)
    >>> round(float(m[5, 5]), 3), round(float(m[1, 8] / m[5, 5]), 2)
    (0.159, 0.5)
    """
    fixations = jnp.asarray(fixations)
    if not jnp.issubdtype(fixations.dtype, jnp.floating):
        raise TypeError(f"fixations must be a float array, not {fixations.dtype}")
    if fixations.ndim < 2 or fixations.shape[-1] != 3:
        raise ValueError(
            "fixations must have the shape (..., n, 3), row, column and duration, not "
            f"{fixations.shape}"
        )
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number of pixels, not {sigma}")
    height, width, size = (operator.index(n) for n in (*shape, size))
    if min(height, width, size) < 1:
        raise ValueError(f"shape and size must be at least 1, not {(height, width)} and {size}")
    rows, columns = (jnp.round(fixations[..., i]).astype(jnp.int32) for i in (0, 1))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    durations = jnp.where(inside, jnp.maximum(fixations[..., 2], 0), 0)
    # One-hot rows times one-hot columns: a scatter that batches, and is exact.
    at_row = jax.nn.one_hot(rows, height, dtype=durations.dtype) * durations[..., None]
    at_column = jax.nn.one_hot(columns, width, dtype=durations.dtype)
    counts = jnp.einsum("...nh,...nw->...hw", at_row, at_column, precision=_HIGHEST)
    counts = safe_divide(counts, counts.max(_SPACE, keepdims=True))
    down, across = (jnp.asarray(_blur(n, sigma, size), counts.dtype) for n in (height, width))
    return jnp.einsum("ih,...hw,jw->...ij", down, counts, across, precision=_HIGHEST)


def _blur(n: int, sigma: float, size: int) -> np.ndarray:
    """The (n, n) matrix of a convolution with a cut Gaussian."""
    # Entry (i, j): the kernel at the offset i - j, whose centre is (size - 1) / 2 - size // 2.
    offsets = np.arange(n)[:, None] - np.arange(n) + size // 2
    kernel = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    inside = (offsets >= 0) & (offsets < size)
    return np.where(inside, (kernel / kernel.sum())[np.clip(offsets, 0, size - 1)], 0)


def centre_map(shape: tuple[int, int], *, sigma: float = 0.25) -> jax.Array:
    """The baseline that knows only that photographers aim: a Gaussian at the centre, maximum 1.

    Its standard deviation is ``sigma`` times each side, so that it has the image's aspect.

    >>> centre_map((3, 3))[1].round(3).tolist()
    [0.411..., 1.0, 0.411...]
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive fraction of the sides, not {sigma}")
    rows, columns = (
        jnp.exp(-0.5 * ((jnp.arange(n) - (n - 1) / 2) / (sigma * n)) ** 2) for n in shape
    )
    return rows[:, None] * columns


def mae(saliency: ArrayLike, truth: ArrayLike) -> jax.Array:
    """Mean absolute error (Ebrahimpour et al. 2019, Eq. 15): ``mean |S - G|``.

    It depends on the scales of both: bring them to [0, 1], for example by
    `jaxplain.postprocess.normalise_max`.

    >>> import jax.numpy as jnp
    >>> mae(jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 1.0]])).item()
    0.25
    """
    saliency, truth = _check(saliency, truth)
    return jnp.abs(saliency - truth).mean(_SPACE)


def nss(saliency: ArrayLike, fixations: ArrayLike) -> jax.Array:
    """Normalised scanpath saliency (Peters et al. 2005): the standardised map at the fixations.

    The mean over fixations of ``(S - mean(S)) / std(S)``, with the population's standard deviation;
    0 for a constant map.

    Args:
        saliency: ``(..., H, W)``, signed.
        fixations: ``(..., H, W)``, how often each pixel was looked at; or a density, which gives
            the expected score of a fixation drawn from it.

    Raises:
        ValueError: no fixation (outside `jit`; 0 inside), or shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> nss(jnp.array([[0.0, 2.0]]), jnp.array([[0.0, 3.0]])).item()
    1.0
    """
    saliency, fixations = _check(saliency, fixations)
    _need_some(fixations)
    total = fixations.sum(_SPACE)
    return safe_divide((_standardised(saliency) * fixations).sum(_SPACE), total)


def auc_judd(saliency: ArrayLike, fixations: ArrayLike) -> jax.Array:
    """Area under the ROC curve after Judd et al. (2009), the map as a classifier of fixated pixels.

    Thresholds are the map's values at the fixated pixels; hits are the share of those at or above
    the threshold, false alarms the share of all other pixels; the points, with (0, 0) and
    (1, 1), are joined by straight lines. Pixels of equal value enter together, which is the mean of
    what the authors' random jitter gives.

    Args:
        saliency: ``(..., H, W)``.
        fixations: ``(..., H, W)``, fixated where positive.

    Raises:
        ValueError: no pixel or every pixel is fixated (outside `jit`; 0.5 inside), or shapes that
            do not fit.

    >>> import jax.numpy as jnp
    >>> auc_judd(jnp.array([[0.1, 0.4, 0.3, 0.2]]), jnp.array([[0.0, 1.0, 0.0, 0.0]])).item()
    1.0
    """
    saliency, fixations = _check(saliency, fixations)
    _need_some(fixations)
    if not isinstance(fixations, Tracer) and bool((fixations > 0).all(_SPACE).any()):
        raise ValueError(
            "every pixel is fixated; auc_judd needs fixations as points: threshold a density first"
        )
    shape = saliency.shape[:-2]
    flat = (v.reshape(math.prod(shape), -1) for v in (saliency, fixations > 0))
    return jax.vmap(_auc_judd)(*flat).reshape(shape)


def _auc_judd(saliency: jax.Array, fixated: jax.Array) -> jax.Array:
    order = jnp.argsort(-saliency)
    values, fixated = -saliency[order], fixated[order]  # ascending: the most salient first
    hits, others = jnp.cumsum(fixated), jnp.cumsum(~fixated)
    end = jnp.searchsorted(values, values, side="right") - 1  # the last pixel of equal value
    # A curve point at each fixated pixel; in between, the point before it is repeated.
    dtype = saliency.dtype

    def curve(counts):
        points = jax.lax.cummax(jnp.where(fixated, counts[end], 0))
        return jnp.concatenate([jnp.zeros(1), points, counts[-1:]]).astype(dtype) / (
            jnp.maximum(counts[-1], 1)
        )

    x, y = curve(others), curve(hits)
    area = ((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2
    return jnp.where((hits[-1] > 0) & (others[-1] > 0), area, 0.5)


def cc(saliency: ArrayLike, truth: ArrayLike) -> jax.Array:
    """Pearson's correlation of two maps over the pixels; 0 where one is constant.

    >>> import jax.numpy as jnp
    >>> round(cc(jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[5.0, 3.0, 1.0]])).item(), 6)
    -1.0
    """
    saliency, truth = _check(saliency, truth)
    return (_standardised(saliency) * _standardised(truth)).mean(_SPACE)


def sim(saliency: ArrayLike, truth: ArrayLike) -> jax.Array:
    """Similarity, the intersection of two histograms: ``sum min(P, Q)``, 0 to 1.

    Each map is shifted to a minimum of 0 and divided by its sum, as in the MIT saliency benchmark's
    code; a constant map is the uniform distribution.

    >>> import jax.numpy as jnp
    >>> round(sim(jnp.array([[0.0, 1.0, 1.0]]), jnp.array([[0.0, 1.0, 3.0]])).item(), 6)
    0.75
    """
    saliency, truth = _check(saliency, truth)
    p, q = (_distribution(_shifted(v)) for v in (saliency, truth))
    return jnp.minimum(p, q).sum(_SPACE)


def kl(saliency: ArrayLike, truth: ArrayLike, *, eps: float = 2.0**-52) -> jax.Array:
    """Kullback-Leibler divergence of the map from the human one, in nats.

    ``sum Q log(eps + Q / (P + eps))`` with P the map and Q the truth, each divided by its sum, as
    in the MIT saliency benchmark's code. Negative values count as 0; a map of zeros is the uniform
    distribution. It grows without bound where people looked and the map is 0: ``eps`` sets how
    much that costs.

    Raises:
        ValueError: ``eps`` is not positive, or shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> round(kl(jnp.array([[1.0, 1.0]]), jnp.array([[1.0, 0.0]])).item(), 4)
    0.6931
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, not {eps}")
    saliency, truth = _check(saliency, truth)
    p, q = (_distribution(jnp.maximum(v, 0)) for v in (saliency, truth))
    return (q * jnp.log(eps + q / (p + eps))).sum(_SPACE)


#: Name -> score of (map, human map); `nss` and `auc_judd` want fixations, the others a density.
SCORES: MappingProxyType[str, Callable] = MappingProxyType(
    {
        "mae": mae,
        "nss": nss,
        "auc_judd": auc_judd,
        "cc": cc,
        "sim": sim,
        "kl": kl,
    }
)


def _check(saliency, truth) -> tuple[jax.Array, jax.Array]:
    """Both as float32 at least, of one shape (..., H, W)."""
    saliency, truth = jnp.asarray(saliency), jnp.asarray(truth)
    if min(saliency.ndim, truth.ndim) < 2 or saliency.shape[-2:] != truth.shape[-2:]:
        raise ValueError(
            "both maps must have the shape (..., H, W) with the same H and W, not "
            f"{saliency.shape} and {truth.shape}"
        )
    if not jnp.issubdtype(saliency.dtype, jnp.floating):
        raise TypeError(f"the map must be a float array, not {saliency.dtype}")
    dtype = jnp.promote_types(saliency.dtype, jnp.float32)
    saliency, truth = jnp.broadcast_arrays(saliency.astype(dtype), truth.astype(dtype))
    return saliency, truth


def _need_some(fixations: jax.Array) -> None:
    if not isinstance(fixations, Tracer) and not bool((fixations > 0).any(_SPACE).all()):
        raise ValueError("a map has no fixation; at least one pixel must be positive")


def _standardised(v: jax.Array) -> jax.Array:
    # A constant map's deviations are its mean's rounding errors: far below its values.
    v = safe_divide(v, jnp.abs(v).max(_SPACE, keepdims=True))
    v = v - v.mean(_SPACE, keepdims=True)
    variance = jnp.square(v).mean(_SPACE, keepdims=True)
    varies = variance > (4 * jnp.finfo(v.dtype).eps) ** 2
    return jnp.where(varies, v / jnp.sqrt(jnp.where(varies, variance, 1)), 0)


def _shifted(v: jax.Array) -> jax.Array:
    return v - v.min(_SPACE, keepdims=True)


def _distribution(v: jax.Array) -> jax.Array:
    v = safe_divide(v, v.max(_SPACE, keepdims=True))  # no overflow in the sum
    total = v.sum(_SPACE, keepdims=True)
    return jnp.where(total > 0, safe_divide(v, total), 1 / math.prod(v.shape[-2:]))
