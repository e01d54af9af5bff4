"""Position embeddings of a grid of patches, brought to another grid as their sources do it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """R. G. Keys, Cubic convolution interpolation for digital image processing, 1981, Eq. 15."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def bicubic_weights(size: int, new: int, antialias: bool = False) -> np.ndarray:
    """The matrix ``(new, size)`` that resizes an axis as torch's bicubic interpolation does.

    Pixels have their centres at halves. Without antialiasing, a = -3/4 and what lies outside is
    the outermost value; with it, a = -1/2, the kernel is stretched by ``size / new`` where that is
    more than 1, and what lies outside has no weight.

    Args:
        size, new: the old and the new length.
        antialias: as said.

    Example:
        >>> from jaxplain.models.positions import bicubic_weights
        >>> bicubic_weights(4, 2).round(4).tolist()[0]
        [0.5, 0.5938, -0.0938, 0.0]
    """
    ratio = size / new
    centres = (np.arange(new)[:, None] + 0.5) * ratio - 0.5
    if antialias:
        stretch = max(ratio, 1.0)
        weights = _cubic((centres - np.arange(size)) / stretch, -0.5)
        return weights / weights.sum(1, keepdims=True)
    weights = np.zeros((new, size))
    first = np.floor(centres).astype(int) - 1
    for tap in range(4):
        place = first + tap
        inside = np.clip(place, 0, size - 1)
        np.add.at(weights, (np.arange(new)[:, None], inside), _cubic(centres - place, -0.75))
    return weights


def resized(positions: jax.Array, grid: tuple[int, int], antialias: bool = False) -> jax.Array:
    """Embeddings of a square grid ``(1, n * n, C)`` for another grid, ``(1, h * w, C)``.

    Args:
        positions: row by row.
        grid: (h, w).
        antialias: see ``bicubic_weights``.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.models.positions import resized
        >>> resized(jnp.ones((1, 9, 2)), (2, 4)).shape
        (1, 8, 2)
    """
    side = round(positions.shape[1] ** 0.5)
    if grid == (side, side):
        return positions
    rows, columns = (jnp.asarray(bicubic_weights(side, n, antialias)) for n in grid)
    square = positions.reshape(side, side, -1)
    kind = positions.dtype
    new = jnp.einsum(
        "hi,wj,ijc->hwc",
        rows.astype(kind),
        columns.astype(kind),
        square,
        precision=jax.lax.Precision.HIGHEST,
    )
    return new.reshape(1, grid[0] * grid[1], -1)
