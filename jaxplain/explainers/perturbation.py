"""Perturbation: what happens to the score when parts of the image are hidden.

No gradient and nothing of the network's inside is needed. `occlusion` hides one window after
another, `rise` random patterns. All classes come from the same forward passes.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxplain.core import _compat
from jaxplain.core.batched import in_chunks
from jaxplain.explainers._common import check_baseline, explained_score, positive_int, run, seeds
from jaxplain.explainers._types import Baseline, Images, Network, Size, Targets

__all__ = ["occlusion", "rise"]


def _pair(name: str, value) -> tuple[int, int]:
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an int or a pair (height, width), not {value!r}")
    return positive_int(name, pair[0]), positive_int(name, pair[1])


def _wide(dtype) -> jnp.dtype:
    """At least single precision, for sums over many passes."""
    return jnp.promote_types(dtype, jnp.float32)


def _windows(size: int, window: int, stride: int) -> np.ndarray:
    """(windows, size): 1 where a window covers a position; the last window is cut by the border."""
    starts = stride * np.arange(math.ceil((size - window) / stride) + 1)
    at = np.arange(size)
    return ((at >= starts[:, None]) & (at < starts[:, None] + window)).astype(np.float32)


def _occlusion(model, x, targets, baseline, *, layers, class_chunk, window, stride, batch_size):
    scores, _ = model.forward(x)
    signal, _ = seeds(scores, targets)
    whole = explained_score(signal, scores)
    covered = [_windows(*v) for v in zip(x.shape[1:3], window, stride, strict=True)]
    rows, columns = (jnp.asarray(v, _wide(x.dtype)) for v in covered)

    def drop(position):
        row, column = (v[i] > 0 for v, i in zip((rows, columns), position, strict=True))
        hidden = (row[:, None] & column)[None, :, :, None]
        occluded = jnp.where(hidden, baseline.astype(x.dtype), x)
        return whole - explained_score(signal, model.forward(occluded)[0])

    grid = (len(rows), len(columns))
    positions = tuple(v.ravel() for v in np.indices(grid))
    drops = in_chunks(drop, (positions,), (0,), batch_size)
    drops = drops.reshape(len(x), *grid, *drops.shape[2:]).astype(rows.dtype)
    total = jnp.einsum(
        "bij...,iy,jx->b...yx", drops, rows, columns, precision=lax.Precision.HIGHEST
    )
    return {"input": (total / (rows.sum(0)[:, None] * columns.sum(0))).astype(x.dtype)}


def occlusion(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    window: Size | None = None,
    stride: Size | None = None,
    baseline: Baseline = 0.0,
    batch_size: int = 16,
) -> jax.Array:
    """Occlusion (Zeiler and Fergus 2014, section 4.2): how much a hidden window lowers the score.

    A window slides over the image in steps of ``stride``; what it covers becomes ``baseline``. A
    pixel gets the mean of ``S(x) - S(occluded x)`` over the windows that cover it, as in captum.
    (The paper draws ``S(occluded x)`` at the window's place instead.) Windows start at 0, stride,
    ... until the border is reached; the last one is cut by it.

    Args:
        fn: images ``(B, H, W, C)`` to scores ``(B, N)`` or a score map ``(B, H', W', N)``.
        x: float images ``(B, H, W, C)``.
        targets: None for the top class, an int, ``(B,)`` or ``(B, K)`` ints, or a float signal
            ``(B, N)`` or ``(B, K, N)`` over the scores; of a score map also ``(B, H', W', N)`` or
            ``(B, K, H', W', N)``. All of them share the passes.
        window: height and width of the window, or one int for both; None is a seventh of the
            image's short side, 32 of 224 pixels.
        stride: step of the window, an int or a pair, at most ``window``; None is half of it.
        baseline: what hidden pixels become, a number or an array that broadcasts to the images: 0
            is the mean colour where the preprocessing subtracts it.
        batch_size: how many occluded copies of the batch go through the network at once.

    Returns:
        Signed maps ``(B, H, W)``, or ``(B, K, H, W)`` for K targets, in the dtype of the images.

    Raises:
        TypeError: x is not of a float dtype, or a size is no int.
        ValueError: x is not four-dimensional or not finite, a class is out of range, the window is
            larger than the image, the stride larger than the window, or the baseline does not fit
            the images.

    Reference: Zeiler and Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014.

    Example:
        >>> import jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return x.sum((1, 2))
        >>> x = jnp.array([1., 2., 4.]).reshape(1, 1, 3, 1)
        >>> jaxplain.occlusion(fn, x, 0, window=(1, 2), stride=1)
        Array([[[3. , 4.5, 6. ]]], dtype=float32)
    """
    size = np.shape(x)[1:3]
    if window is None:
        window = max(min(size, default=1) // 7, 1)
    high, wide = _pair("window", window)
    step = (max(high // 2, 1), max(wide // 2, 1)) if stride is None else _pair("stride", stride)
    if len(size) == 2 and (high > size[0] or wide > size[1]):
        raise ValueError(
            f"window must fit in the images of {size[0]} x {size[1]}, not be {high} x {wide}"
        )
    if step[0] > high or step[1] > wide:
        raise ValueError(
            "stride must not exceed window, or pixels are left out: stride is "
            f"{step}, window {(high, wide)}"
        )
    return run(
        _occlusion,
        fn,
        x,
        targets,
        layer="input",
        arrays=(check_baseline(baseline, x),),
        window=(high, wide),
        stride=step,
        batch_size=positive_int("batch_size", batch_size),
    )


def draw_masks(
    key: jax.Array, samples: int, shape: tuple[int, int], grid: tuple[int, int], probability: float
) -> tuple[jax.Array, jax.Array]:
    """What is random of the masks: open cells ``(samples, *grid)``, shifts ``(samples, 2)``."""
    for_cells, for_shifts = jax.random.split(key)
    cells = jax.random.bernoulli(for_cells, probability, (samples, *grid))
    sizes = jnp.array([math.ceil(size / n) for size, n in zip(shape, grid, strict=True)])
    return cells, jax.random.randint(for_shifts, (samples, 2), 0, sizes)


def make_mask(cells: jax.Array, shift: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """One mask: the cells, enlarged bilinearly to one cell more than ``shape``, cut at ``shift``.

    The weights of the interpolation sum to 1, so the mean over masks is the probability everywhere.
    """
    mask = cells.astype(jnp.float32)
    for axis, (n, size) in enumerate(zip(cells.shape, shape, strict=True)):
        enlarged = (n + 1) * math.ceil(size / n)
        at = (jnp.arange(size) + shift[axis] + 0.5) * (n / enlarged) - 0.5  # half-pixel centres
        hats = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, n - 1)[:, None] - jnp.arange(n)), 0)
        mask = jnp.moveaxis(
            jnp.tensordot(hats, mask, axes=(1, axis), precision=lax.Precision.HIGHEST), 0, axis
        )
    return mask


def _rise(
    model,
    x,
    targets,
    key,
    baseline,
    *,
    layers,
    class_chunk,
    samples,
    grid,
    probability,
    centre,
    batch_size,
):
    scores, _ = model.forward(x)
    signal, _ = seeds(scores, targets)
    start = jnp.broadcast_to(baseline, x.shape).astype(x.dtype)
    size = x.shape[1:3]
    drawn = draw_masks(key, samples, size, grid, probability)

    def masked_score(cells, shift):
        mask = make_mask(cells, shift, size)[..., None].astype(x.dtype)
        return explained_score(signal, model.forward(start + mask * (x - start))[0])

    found = in_chunks(masked_score, drawn, (0, 0), batch_size).astype(_wide(x.dtype))
    mean = found.mean(1) if centre else jnp.zeros_like(found[:, 0])

    def add(total, values):  # making a mask again costs less than keeping all of them
        cells, shift, value = values
        return total + (value - mean)[..., None, None] * make_mask(cells, shift, size), None

    zero = _compat.zeros_like_varying((*mean.shape, *size), found.dtype, found)
    total, _ = lax.scan(add, zero, (*drawn, jnp.moveaxis(found, 1, 0)))
    return {"input": (total / (samples * probability)).astype(x.dtype)}


def rise(
    fn: Network,
    x: Images,
    targets: Targets = None,
    *,
    key: jax.Array,
    samples: int = 4000,
    grid: Size = 7,
    probability: float = 0.5,
    baseline: Baseline = 0.0,
    centre: bool = True,
    batch_size: int = 16,
) -> jax.Array:
    """RISE (Petsiuk et al. 2018): how much higher the score is in masked images that show a pixel.

    ``sum_i (S(x * M_i) - mean S) M_i / (samples * probability)`` with random masks ``M_i`` in
    [0, 1]: a grid of cells, each open with ``probability``, enlarged bilinearly and shifted at
    random. All images and classes see the same masks, so a map does not depend on the batch.

    Args:
        fn, x, targets: as in `occlusion`. The paper's scores are probabilities: to follow it, give
            a ``fn`` that ends in a softmax.
        key: a key of `jax.random`; the same key gives the same map.
        samples: number of masks, 4000 to 8000 in the paper; the noise falls with its square root.
        grid: rows and columns of cells, or one int for both.
        probability: of a cell to be open.
        baseline: what hidden pixels become, a number or an array that broadcasts to the images.
        centre: False leaves out ``mean S``, the mean score over the masks, as the paper does. The
            map is then higher by about that mean everywhere, and noisier in proportion to it, which
            matters for logits. Where pixels rank is the same on average.
        batch_size: how many masked copies of the batch go through the network at once.

    Returns:
        Signed maps ``(B, H, W)``, or ``(B, K, H, W)`` for K targets, in the dtype of the images; 0
        where it makes no difference whether a pixel is seen.

    Raises:
        TypeError: x is not of a float dtype, or a size is no int.
        ValueError: x is not four-dimensional or not finite, a class is out of range, a size is not
            positive, ``probability`` is not in (0, 1], or the baseline does not fit the images.

    Reference: Petsiuk, Das and Saenko, *RISE: randomized input sampling for explanation of
    black-box models*, BMVC 2018.

    Example:
        The score is the left pixel:

        >>> import jax, jax.numpy as jnp, jaxplain
        >>> def fn(x):
        ...     return x[:, 0, 0] * 8
        >>> x = jnp.ones((1, 1, 8, 1))
        >>> maps = jaxplain.rise(fn, x, 0, key=jax.random.key(0), samples=400, grid=(1, 4))
        >>> bool(maps[0, 0, 0] > 1 and abs(maps[0, 0, 7]) < 0.3)
        True
    """
    if not 0 < probability <= 1:
        raise ValueError(f"probability must be in (0, 1], but is {probability}")
    return run(
        _rise,
        fn,
        x,
        targets,
        layer="input",
        arrays=(key, check_baseline(baseline, x)),
        samples=positive_int("samples", samples),
        grid=_pair("grid", grid),
        probability=float(probability),
        centre=bool(centre),
        batch_size=positive_int("batch_size", batch_size),
    )
