"""Phrase localisation (Zhang et al. 2018, section 6.3), recall and average precision.

A phrase's map is the mean of its words' maps; proposals are scored by it, thinned out by
`jaxplain.evaluation.nms`, and compared with the boxes that the phrase means. Pure functions of
arrays, for `jit` and `vmap`. Boxes are ``(left, top, right, bottom)``, 0-based and half-open.

    scores = score_boxes(phrase_map(word_maps), proposals, gamma=0.5)
    stays = nms(proposals, scores, 0.7)
    found = recall_at(proposals, scores, truth, (1, 5, 10), valid=stays)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxplain.evaluation.localisation import box_iou

__all__ = [
    "GAMMAS",
    "average_precision",
    "is_small",
    "match",
    "phrase_map",
    "recall_at",
    "score_boxes",
    "score_segments",
]

#: The exponents of the area among which the paper chooses: 0, 0.25, ..., 1.
GAMMAS = np.arange(5, dtype=np.float32) / 4


def phrase_map(word_maps: ArrayLike, known: ArrayLike | None = None) -> jax.Array:
    """The mean of the maps of a phrase's words: ``(..., words, H, W)`` to ``(..., H, W)``.

    Args:
        word_maps: a map each word.
        known: bool ``(..., words)``: words that the network knows; the others are skipped. A map of
            zeros where it knows none.

    Example:
        >>> import jax.numpy as jnp
        >>> maps = jnp.array([[[1.0]], [[3.0]], [[9.0]]])
        >>> phrase_map(maps, jnp.array([True, True, False])).item()
        2.0
    """
    word_maps = jnp.asarray(word_maps)
    if known is None:
        return word_maps.mean(-3)
    weights = jnp.asarray(known, word_maps.dtype)
    total = (word_maps * weights[..., None, None]).sum(-3)
    return total / jnp.maximum(weights.sum(-1), 1)[..., None, None]


def score_segments(maps: ArrayLike, segments: ArrayLike, gamma: float) -> jax.Array:
    """f(R) = S_R / A_R^gamma for proposals that are masks (section 6.3.1).

    S_R is the sum of the map in R, A_R the number of its pixels. Empty segments score minus
    infinity.

    Args:
        maps: ``(..., H, W)``.
        segments: bool ``(..., N, H, W)``.
        gamma: 0 favours large regions, 1 small ones.

    Returns:
        ``(..., N)``.

    Example:
        >>> import jax.numpy as jnp
        >>> segments = jnp.array([[[True, True]], [[False, True]]])
        >>> score_segments(jnp.array([[1.0, 3.0]]), segments, 1.0).tolist()
        [2.0, 3.0]
    """
    maps = jnp.asarray(maps)
    segments = jnp.asarray(segments, bool).astype(maps.dtype)
    flat = segments.reshape(*segments.shape[:-2], -1)
    sums = jnp.einsum(
        "...np,...p->...n",
        flat,
        maps.reshape(*maps.shape[:-2], -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _score(sums, flat.sum(-1), gamma)


def score_boxes(maps: ArrayLike, boxes: ArrayLike, gamma: float) -> jax.Array:
    """f(R) = S_R / A_R^gamma for proposals that are boxes; as `score_segments` of their pixels.

    The pixels of a box are those whose centre lies in it, and in the map.

    Args:
        maps: ``(..., H, W)``.
        boxes: ``(..., N, 4)``.
        gamma: as in `score_segments`.

    Returns:
        ``(..., N)``.

    Example:
        >>> import jax.numpy as jnp
        >>> boxes = jnp.array([[0.0, 0, 2, 1], [1, 0, 2, 1]])
        >>> score_boxes(jnp.array([[1.0, 3.0]]), boxes, 1.0).tolist()
        [2.0, 3.0]
    """
    maps, boxes = jnp.asarray(maps), jnp.asarray(boxes)
    height, width = maps.shape[-2:]

    def inside(low: jax.Array, high: jax.Array, size: int) -> jax.Array:
        centres = jnp.arange(size) + 0.5
        return ((low[..., None] <= centres) & (centres < high[..., None])).astype(maps.dtype)

    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    rows, columns = inside(top, bottom, height), inside(left, right, width)
    sums = jnp.einsum(
        "...nh,...hw,...nw->...n", rows, maps, columns, precision=jax.lax.Precision.HIGHEST
    )
    return _score(sums, rows.sum(-1) * columns.sum(-1), gamma)


def is_small(boxes: ArrayLike, image_area: ArrayLike, valid: ArrayLike | None = None) -> jax.Array:
    """The small instances of Table 6: the boxes ``(..., N, 4)`` cover less than 1/4 of the image.

    Of several boxes it is the area of the one box around them all, as the recall is measured.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(is_small(jnp.array([[0.0, 0, 10, 10]]), 401))
        True
    """
    whole = union_box(boxes, valid)
    area = (whole[..., 2] - whole[..., 0]) * (whole[..., 3] - whole[..., 1])
    return 4 * area < jnp.asarray(image_area)


def union_box(boxes: ArrayLike, valid: ArrayLike | None = None) -> jax.Array:
    """The one box ``(..., 4)`` around boxes ``(..., N, 4)``; (0, 0, 0, 0) where none is valid.

    Plummer et al. 2015 compare with it where a phrase means several boxes.

    Example:
        >>> import jax.numpy as jnp
        >>> union_box(jnp.array([[0.0, 5, 2, 6], [1, 0, 9, 1]])).tolist()
        [0.0, 0.0, 9.0, 6.0]
    """
    boxes = jnp.asarray(boxes)
    valid = jnp.ones(boxes.shape[:-1], bool) if valid is None else jnp.asarray(valid, bool)
    low = jnp.where(valid[..., None], boxes[..., :2], jnp.inf).min(-2)
    high = jnp.where(valid[..., None], boxes[..., 2:], -jnp.inf).max(-2)
    whole = jnp.concatenate([low, high], axis=-1)
    return jnp.where(valid.any(-1)[..., None], whole, 0)


def recall_at(
    boxes: ArrayLike,
    scores: ArrayLike,
    truth: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    *,
    valid: ArrayLike | None = None,
    iou: float = 0.5,
) -> jax.Array:
    """Whether one of the k best boxes overlaps with the true one, for each k: bool ``(len(ks),)``.

    Recall is its mean over phrases.

    Args:
        boxes: proposals ``(N, 4)``.
        scores: ``(N,)``; the first one of equal scores ranks first.
        truth: ``(4,)``, the box that the phrase means (`union_box` of several).
        ks: how many boxes may be proposed.
        valid: bool ``(N,)``: proposals that are there, such as those that `nms` left; None for all.
        iou: what counts as overlapping.

    Example:
        >>> import jax.numpy as jnp
        >>> boxes, truth = jnp.array([[0.0, 0, 9, 9], [5, 5, 9, 9]]), jnp.array([5.0, 5, 9, 9])
        >>> recall_at(boxes, jnp.array([0.9, 0.1]), truth, (1, 2)).tolist()
        [False, True]
    """
    boxes, scores = jnp.asarray(boxes), jnp.asarray(scores)
    valid = jnp.ones(scores.shape, bool) if valid is None else jnp.asarray(valid, bool)
    good = (box_iou(boxes, jnp.asarray(truth)[None])[:, 0] >= iou) & valid
    order = _ranking(scores, valid)
    return jnp.stack([good[order][:k].any() for k in ks])


def match(
    boxes: ArrayLike,
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    truth_valid: ArrayLike | None = None,
    iou: float = 0.5,
) -> jax.Array:
    """Which detections of one image are right: PASCAL VOC's rule, bool ``(N,)``.

    From the highest score down, a detection is compared with the true box that it overlaps with
    most; it is right if their IoU is at least ``iou`` and no better detection has taken that box.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``; the first one of equal scores ranks first.
        truth: ``(M, 4)``, M >= 1.
        valid, truth_valid: bool ``(N,)`` and ``(M,)``: which are there; None for all.
        iou: what counts as overlapping.

    Example:
        >>> import jax.numpy as jnp
        >>> boxes = jnp.array([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]])
        >>> match(boxes, jnp.array([0.5, 0.9, 0.1]), jnp.array([[0.0, 0, 9, 9]])).tolist()
        [False, True, False]
    """
    boxes, scores, truth = jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(truth)
    valid = jnp.ones(boxes.shape[0], bool) if valid is None else jnp.asarray(valid, bool)
    there = (
        jnp.ones(truth.shape[0], bool) if truth_valid is None else jnp.asarray(truth_valid, bool)
    )
    overlaps = jnp.where(there, box_iou(boxes, truth), -1)
    best = overlaps.argmax(-1)
    good = (overlaps.max(-1) >= iou) & valid
    order = _ranking(scores, valid)

    def decide(taken: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        right = good[i] & ~taken[best[i]]
        return taken.at[best[i]].set(taken[best[i]] | right), right

    _, right = jax.lax.scan(decide, jnp.zeros(truth.shape[0], bool), order)
    return jnp.zeros(boxes.shape[0], bool).at[order].set(right)


def average_precision(
    scores: ArrayLike,
    right: ArrayLike,
    positives: ArrayLike,
    *,
    valid: ArrayLike | None = None,
    eleven_points: bool = False,
) -> jax.Array:
    """Average precision of ranked detections.

    Precision is made non-increasing in recall, and integrated over it (PASCAL VOC since 2010); or
    averaged at the recalls 0, 0.1, ..., 1 (before).

    Args:
        scores: ``(N,)``, of all images together; the first one of equal scores ranks first.
        right: bool ``(N,)``, from `match`.
        positives: how many there are to be found.
        valid: bool ``(N,)``: detections that are there; None for all.
        eleven_points: the older form.

    Returns:
        float32 scalar; NaN where there is nothing to be found.

    Example:
        >>> import jax.numpy as jnp
        >>> average_precision(jnp.array([0.9, 0.8, 0.7]), jnp.array([True, False, True]), 2).item()
        0.8333333730697632
    """
    scores, right = jnp.asarray(scores), jnp.asarray(right, bool)
    valid = jnp.ones(scores.shape, bool) if valid is None else jnp.asarray(valid, bool)
    order = _ranking(scores, valid)
    right, valid = (right & valid)[order], valid[order]
    found = jnp.cumsum(right)
    precision = found / jnp.maximum(jnp.cumsum(valid), 1)
    # The best precision at this recall or a higher one; detections that are not there have none.
    best = jax.lax.cummax(jnp.where(valid, precision, 0), reverse=True)
    positives = jnp.asarray(positives)
    if eleven_points:
        recall = found / jnp.maximum(positives, 1)
        levels = jnp.arange(11) / 10
        reached = recall >= levels[:, None] - 1e-6  # 0.3 is not 3 / 10 in float32
        ap = jnp.where(reached & valid, precision, 0).max(-1, initial=0).mean()
    else:
        ap = (best * right).sum() / jnp.maximum(positives, 1)
    return jnp.where(positives > 0, ap, jnp.nan).astype(jnp.float32)


def _ranking(scores: jax.Array, valid: jax.Array) -> jax.Array:
    """Indices from the best down; those that are not there come last, whatever their score."""
    return jnp.lexsort((-scores, ~valid))


def _score(sums: jax.Array, areas: jax.Array, gamma: float) -> jax.Array:
    return jnp.where(areas > 0, sums / jnp.where(areas > 0, areas, 1) ** gamma, -jnp.inf)
