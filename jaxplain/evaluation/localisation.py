"""Boxes from maps: dominant objects (Zhang et al. 2018, section 6.2) and their overlaps.

Pure functions of arrays, for `jit` and `vmap`. Boxes are ``(left, top, right, bottom)``, 0-based
and half-open.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxplain.core.numerics import safe_divide
from jaxplain.postprocess import tightest_box

__all__ = [
    "ALPHAS",
    "best_alpha",
    "box_iou",
    "is_localised",
    "localisation_error",
    "mask_iou",
    "nms",
    "threshold_boxes",
]

#: The thresholds, in means of the map, among which papers choose: 0, 0.5, ..., 10.
ALPHAS = np.arange(21, dtype=np.float32) / 2


def threshold_boxes(maps: ArrayLike, alphas: ArrayLike = ALPHAS) -> jax.Array:
    """The tightest box around the pixels above ``alpha * mean(map)``, for each alpha (section
    6.2.1).

    Args:
        maps: ``(..., H, W)``. Meant for maps without negative values; take the positive part or the
            absolute value of others before.
        alphas: ``(A,)``.

    Returns:
        float32 ``(..., A, 4)``. (0, 0, 0, 0) where no pixel is above, as in a constant map from
        alpha = 1 on.

    Example:
        >>> import jax.numpy as jnp
        >>> threshold_boxes(jnp.array([[0.0, 1.0, 7.0]]), jnp.array([0.0, 1.0, 4.0])).tolist()
        [[1.0, 0.0, 3.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    maps = jnp.asarray(maps)
    alphas = jnp.asarray(alphas, maps.dtype)
    mean = maps.mean((-2, -1))[..., None]

    def boxes(alpha: ArrayLike) -> jax.Array:
        return tightest_box(maps > (alpha * mean)[..., None])

    return jnp.moveaxis(jax.lax.map(boxes, alphas), 0, -2)


def box_iou(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Intersection over union of boxes ``(..., N, 4)`` and ``(..., M, 4)``: ``(..., N, M)``.

    0 where neither has an area.

    Example:
        >>> import jax.numpy as jnp
        >>> box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0]])).tolist()
        [[0.3333333432674408]]
    """
    a, b = jnp.asarray(a)[..., :, None, :], jnp.asarray(b)[..., None, :, :]
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    return _ratio(jnp.maximum(sides, 0).prod(-1), _area(a), _area(b))


def mask_iou(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Intersection over union of masks ``(..., N, H, W)`` and ``(..., M, H, W)``: ``(..., N, M)``.

    0 where both are empty.

    Example:
        >>> import jax.numpy as jnp
        >>> a, b = jnp.array([[[True, True, False]]]), jnp.array([[[False, True, True]]])
        >>> mask_iou(a, b).tolist()
        [[0.3333333432674408]]
    """
    a, b = (jnp.asarray(m, bool).astype(jnp.float32) for m in (a, b))
    a, b = (m.reshape(*m.shape[:-2], -1) for m in (a, b))
    common = jnp.einsum("...np,...mp->...nm", a, b, precision=jax.lax.Precision.HIGHEST)
    return _ratio(common, a.sum(-1)[..., :, None], b.sum(-1)[..., None, :])


def is_localised(
    boxes: ArrayLike, truth: ArrayLike, valid: ArrayLike | None = None, iou: float = 0.5
) -> jax.Array:
    """Whether a box overlaps with one of the true ones by an IoU of at least ``iou``.

    Args:
        boxes: ``(..., 4)``.
        truth: ``(..., N, 4)``.
        valid: bool ``(..., N)``: which of them count; None for all.
        iou: the threshold; 0.5 in the papers.

    Returns:
        bool ``(...)``.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(is_localised(jnp.array([0.0, 0, 4, 2]), jnp.array([[0.0, 0, 2, 2]])))
        True
    """
    overlaps = box_iou(jnp.asarray(boxes)[..., None, :], truth)[..., 0, :]
    good = overlaps >= iou
    return (good if valid is None else good & valid).any(-1)


def localisation_error(localised: ArrayLike) -> jax.Array:
    """The share of images, along the first axis, that were not localised: ``(n, ...)`` to
    ``(...)``.

    Example:
        >>> import jax.numpy as jnp
        >>> localisation_error(jnp.array([[True, False], [True, True]])).tolist()
        [0.0, 0.5]
    """
    return 1 - jnp.asarray(localised, jnp.float32).mean(0)


def best_alpha(errors: ArrayLike, alphas: ArrayLike = ALPHAS) -> jax.Array:
    """The alpha of the lowest error ``(..., A)``, the smallest one of several.

    Choose it on images that are held out from the test.

    Example:
        >>> import jax.numpy as jnp
        >>> best_alpha(jnp.array([0.5, 0.25, 0.25]), jnp.array([0.0, 0.5, 1.0])).item()
        0.5
    """
    return jnp.asarray(alphas)[jnp.argmin(jnp.asarray(errors), axis=-1)]


def nms(
    boxes: ArrayLike, scores: ArrayLike, iou: float = 0.7, valid: ArrayLike | None = None
) -> jax.Array:
    """Greedy non-maximum suppression: which boxes stay.

    From the highest score down (the first one of equal scores first), a box stays unless its IoU
    with one that stays is greater than ``iou``.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        iou: the threshold; 0.7 in Zhang et al. 2018, section 6.3.1.
        valid: bool ``(N,)``: boxes that are there at all; None for all.

    Returns:
        bool ``(N,)``.

    Example:
        >>> import jax.numpy as jnp
        >>> boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
        >>> nms(boxes, jnp.array([0.5, 0.9, 0.1])).tolist()
        [False, True, True]
    """
    boxes, scores = jnp.asarray(boxes), jnp.asarray(scores)
    count = boxes.shape[0]
    valid = jnp.ones(count, bool) if valid is None else jnp.asarray(valid, bool)
    order = jnp.argsort(-scores, stable=True)
    overlaps, valid = (box_iou(boxes, boxes) > iou)[order][:, order], valid[order]

    def decide(i: jax.Array, stays: jax.Array) -> jax.Array:
        # Row i counts only what was decided before it: later ones are still False.
        return stays.at[i].set(valid[i] & ~(overlaps[i] & stays).any())

    stays = jax.lax.fori_loop(0, count, decide, jnp.zeros(count, bool))
    return jnp.zeros(count, bool).at[order].set(stays)


def _area(boxes: jax.Array) -> jax.Array:
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)


def _ratio(common: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return safe_divide(common, a + b - common)
