"""How far a figure measured on few images can be trusted: intervals of shares and of means.

On the host, in NumPy: these are taken once, of what a whole study has found.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["CONFIDENCE", "bootstrap", "wilson"]

#: The probability with which an interval covers the true value.
CONFIDENCE = 0.95


def wilson(
    hits: ArrayLike, trials: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of the share ``hits / trials``: its two ends, in [0, 1].

    It never leaves [0, 1], and means something for 0 hits too. Of no trials it is [0, 1].

    Args:
        hits, trials: numbers of any shape that broadcast, ``0 <= hits <= trials``.
        confidence: the probability with which the interval covers the true share.

    Example:
        >>> low, high = wilson([52, 0], [75, 10])
        >>> low.round(3).tolist(), high.round(3).tolist()
        ([0.582, 0.0], [0.786, 0.278])
    """
    hits, trials = np.asarray(hits, float), np.asarray(trials, float)
    _check(confidence)
    if not ((hits >= 0) & (hits <= trials)).all():
        raise ValueError("there must be no more hits than trials, and no negative number of them")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    # (p + z2 / 2n +- sqrt(z2 (p (1 - p) + z2 / 4n) / n)) / (1 + z2 / n), times n throughout.
    centre = hits + z2 / 2
    share = hits / np.maximum(trials, 1)
    reach = np.sqrt(z2 * (hits * (1 - share) + z2 / 4))
    return (
        np.clip((centre - reach) / (trials + z2), 0, 1),
        np.clip((centre + reach) / (trials + z2), 0, 1),
    )


def bootstrap(
    values: ArrayLike,
    confidence: float = CONFIDENCE,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap's interval of a mean over images: its two ends.

    Args:
        values: ``(..., N)``, one for each image. All scores are drawn with the same images.
        confidence: the probability with which the interval covers the true mean, about.
        resamples: how often N images are drawn, with replacement.
        seed: of the drawing.

    Example:
        >>> low, high = bootstrap([[0.0, 1.0, 2.0, 3.0], [5.0, 5.0, 5.0, 5.0]])
        >>> low.tolist(), high.tolist()
        ([0.5, 5.0], [2.5, 5.0])
    """
    values = np.asarray(values, float)
    _check(confidence)
    if values.ndim < 1 or values.shape[-1] < 1:
        raise ValueError(f"values must have the shape (..., N) with N >= 1, not {values.shape}")
    rng, count = np.random.default_rng(seed), values.shape[-1]
    # One resample at a time: all of thousands of images at once would be large.
    means = [values[..., rng.integers(count, size=count)].mean(-1) for _ in range(resamples)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.stack(means), [tail, 1 - tail], axis=0)
    return low, high


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
