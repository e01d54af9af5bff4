"""The pointing game (Zhang et al. 2018, section 6.1): does a map's maximum lie on the object?

Pure functions of arrays, for `jit` and `vmap`. Points are ``(..., 2)``: row and column of a pixel.
Boxes are ``(left, top, right, bottom)``, 0-based and half-open; a pixel belongs to a box if its
centre does.

    points = maximum(maps)                                  # (B, K, 2) from maps (B, K, H, W)
    hits = on_boxes(points, boxes[:, None], valid)          # boxes (B, 1, N, 4), valid (B, K, N)
    result = accuracy(hits, classes, 20)                    # a class, and the mean over classes
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

__all__ = [
    "TOLERANCE",
    "PointingAccuracy",
    "accuracy",
    "centre",
    "is_difficult",
    "maximum",
    "on_boxes",
    "on_mask",
]

#: A maximum counts if it is less than this many pixels from the object (section 6.1.1).
TOLERANCE = 15.0


def maximum(maps: ArrayLike) -> jax.Array:
    """Where each map ``(..., H, W)`` is largest: int32 ``(..., 2)``, row and column.

    Of several equal maxima it is the first in row order; so a constant map points at (0, 0).

    Example:
        >>> import jax.numpy as jnp
        >>> maximum(jnp.array([[0.0, 2.0, 1.0], [2.0, 0.0, 0.0]])).tolist()
        [0, 1]
    """
    maps = jnp.asarray(maps)
    if maps.ndim < 2 or 0 in maps.shape[-2:]:
        raise ValueError(f"maps must have the shape (..., H, W) with pixels, not {maps.shape}")
    first = jnp.argmax(maps.reshape(*maps.shape[:-2], -1), axis=-1)
    return jnp.stack(jnp.divmod(first, maps.shape[-1]), axis=-1).astype(jnp.int32)


def centre(size: ArrayLike) -> jax.Array:
    """The baseline that points at the centre: pixel (H // 2, W // 2) of sizes ``(..., 2)``.

    Example:
        >>> centre((375, 500)).tolist()
        [187, 250]
    """
    return jnp.asarray(size, jnp.int32) // 2


def on_boxes(
    points: ArrayLike,
    boxes: ArrayLike,
    valid: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
) -> jax.Array:
    """Whether points are on, or less than ``tolerance`` pixels from, one of several boxes.

    The distance is the Euclidean one between the centres of pixels, to the nearest pixel of a box.

    Args:
        points: ``(..., 2)``, row and column.
        boxes: ``(..., N, 4)``; boxes without a pixel are never hit.
        valid: bool ``(..., N)``: which boxes count; None for all.
        tolerance: in pixels; 0 or less counts nothing, not even points on a box.

    Returns:
        bool ``(...)``.

    Example:
        >>> import jax.numpy as jnp
        >>> box = jnp.array([[100.0, 50.0, 120.0, 60.0]])
        >>> [bool(on_boxes(jnp.array([55, column]), box)) for column in (110, 133, 134)]
        [True, True, False]
    """
    points, boxes = jnp.asarray(points)[..., None, :], jnp.asarray(boxes)
    # The first and last pixel whose centre (i + 0.5) lies in the box.
    first = jnp.ceil(boxes[..., :2] - 0.5)
    last = jnp.ceil(boxes[..., 2:] - 0.5) - 1
    at = points[..., ::-1].astype(boxes.dtype)  # column, row
    away = jnp.maximum(jnp.maximum(first - at, at - last), 0)
    near = (away**2).sum(-1) < max(tolerance, 0) ** 2
    near &= (first <= last).all(-1)
    return (near if valid is None else near & valid).any(-1)


def on_mask(points: ArrayLike, masks: ArrayLike, tolerance: float = TOLERANCE) -> jax.Array:
    """Whether points are on, or less than ``tolerance`` pixels from, a region.

    Args:
        points: ``(..., 2)``, row and column.
        masks: bool ``(..., H, W)``; an empty one is never hit.
        tolerance: in pixels; 0 or less counts nothing, not even points on the region.

    Returns:
        bool ``(...)``.

    Example:
        >>> import jax.numpy as jnp
        >>> mask = jnp.zeros((40, 40), bool).at[0, 0].set(True)
        >>> [bool(on_mask(jnp.array(point), mask)) for point in ((0, 14), (0, 15), (9, 12))]
        [True, False, False]
    """
    points, masks = jnp.asarray(points), jnp.asarray(masks)
    rows, columns = (jnp.arange(n) for n in masks.shape[-2:])
    down = (rows - points[..., :1]) ** 2
    across = (columns - points[..., 1:]) ** 2
    near = down[..., :, None] + across[..., None, :] < max(tolerance, 0) ** 2
    return (near & masks.astype(bool)).any((-2, -1))


def is_difficult(area: ArrayLike, image_area: ArrayLike, classes_present: ArrayLike) -> jax.Array:
    """Whether a class of an image is in the difficult subset (section 6.1.1).

    Both must hold: the total area of the class's boxes or segments is less than a quarter of the
    image; and at least one other class is present.

    Args:
        area: ``(...)``: the sum over the class's boxes or segments, in pixels; overlaps count
            twice.
        image_area: height times width.
        classes_present: how many classes the image has, the one in question included.

    Returns:
        bool ``(...)``.

    Example:
        >>> cases = ((24, 2), (25, 2), (24, 1))
        >>> [bool(is_difficult(area, 100, classes)) for area, classes in cases]
        [True, False, False]
    """
    small = 4 * jnp.asarray(area) < jnp.asarray(image_area)
    return small & (jnp.asarray(classes_present) >= 2)


class PointingAccuracy(NamedTuple):
    """What `accuracy` returns.

    Attributes:
        mean: over the classes that were asked for; NaN where none was.
        per_class: ``(classes,)``; NaN where a class was never asked for.
        hits, trials: int32 ``(classes,)``.
    """

    mean: jax.Array
    per_class: jax.Array
    hits: jax.Array
    trials: jax.Array


def accuracy(
    hits: ArrayLike, classes: ArrayLike, num_classes: int, counted: ArrayLike | None = None
) -> PointingAccuracy:
    """Accuracy of each class, hits / (hits + misses), and its mean over classes.

    Args:
        hits: bool ``(n,)``, one each question.
        classes: int ``(n,)``: the class that was asked for.
        num_classes: how many there are.
        counted: bool ``(n,)``: which questions count, such as the difficult ones; None for all.

    Example:
        >>> import jax.numpy as jnp
        >>> result = accuracy(jnp.array([True, False, True]), jnp.array([0, 0, 2]), 3)
        >>> result.mean.item(), result.per_class.tolist()
        (0.75, [0.5, nan, 1.0])
    """
    hits, classes = jnp.asarray(hits, bool).ravel(), jnp.asarray(classes, jnp.int32).ravel()
    counted = jnp.ones_like(hits) if counted is None else jnp.asarray(counted, bool).ravel()
    zeros = jnp.zeros(num_classes, jnp.int32)
    trials = zeros.at[classes].add(counted.astype(jnp.int32))
    won = zeros.at[classes].add((hits & counted).astype(jnp.int32))
    per_class = jnp.where(trials > 0, won / jnp.maximum(trials, 1), jnp.nan)
    return PointingAccuracy(jnp.nanmean(per_class), per_class, won, trials)
