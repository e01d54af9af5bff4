"""What is done to a map after the explainer: resizing, blurring, clipping, normalising.

Explainers return raw maps at their layer's resolution. Everything here is a pure function of
arrays `(..., H, W)`: it works inside `jit`, `vmap` and `grad`, keeps float dtypes, and treats every
map of the leading axes alone. Nothing is applied in secret; `PRESETS` names the settings of papers
and packages.

>>> import jax.numpy as jnp
>>> from jaxplain import postprocess
>>> maps = jnp.array([[[0.0, 1.0], [2.0, -3.0]]])
>>> postprocess.normalise_max(postprocess.positive(maps)).tolist()
[[[0.0, 0.5], [1.0, 0.0]]]
>>> postprocess.apply("pointing_game_eb", maps, (224, 224)).shape
(1, 224, 224)
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxplain.core.numerics import safe_divide

__all__ = [
    "PRESETS",
    "apply",
    "gaussian_blur",
    "normalise_max",
    "normalise_min_max",
    "normalise_percentile",
    "positive",
    "resize",
    "resize_matrix",
    "tightest_box",
]

_BORDERS = {"reflect": "symmetric", "edge": "edge", "zero": "constant"}
_METHODS = ("bilinear", "bicubic", "nearest")


def resize(
    maps: ArrayLike,
    shape: tuple[int, int],
    method: str = "bilinear",
    *,
    align_corners: bool = False,
    antialias: bool = False,
) -> jax.Array:
    """Resizes maps `(..., h, w)` to `(..., H, W)` with `shape = (H, W)`.

    Output pixel i is sampled at `(i + 0.5) h / H - 0.5` of the input (half-pixel centres), or at
    `i (h - 1) / (H - 1)` with `align_corners=True`, where the corner pixels coincide.

    - `"bilinear"`: linear interpolation, the border pixel continued outwards.
    - `"bicubic"`: Keys' cubic convolution with a = -0.5, as in `jax.image.resize`, Pillow and
      MATLAB (torch and OpenCV use a = -0.75). Taps outside the map are left out and the others
      rescaled to a sum of one. May overshoot: a non-negative map can become slightly negative.
    - `"nearest"`: pixel `floor(i h / H)`, as torch does it (`jax.image.resize` rounds from
      half-pixel centres instead).

    Args:
        maps: float array of rank >= 2.
        shape: height and width of the result.
        method: `"bilinear"`, `"bicubic"` or `"nearest"`.
        align_corners: the second of the sampling grids above; not for `"nearest"`.
        antialias: whether the kernel is widened when a map is made smaller, as `jax.image.resize`
            does by default and torch does not. No effect on enlarging; not for `"nearest"`.

    Returns:
        The resized maps, in the dtype of `maps`.

    Raises:
        ValueError: unknown method, empty shape, or an option that the method does not have.
        TypeError: `maps` is not a float array.

    Reference:
        R. Keys, "Cubic convolution interpolation for digital image processing", 1981.

    >>> import jax.numpy as jnp
    >>> resize(jnp.array([[0.0, 4.0]]), (1, 4)).tolist()
    [[0.0, 1.0, 3.0, 4.0]]
    >>> resize(jnp.array([[0.0, 3.0]]), (1, 4), align_corners=True).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    >>> resize(jnp.array([[0.0, 3.0]]), (1, 4), "nearest").tolist()
    [[0.0, 0.0, 3.0, 3.0]]
    """
    maps = _check_maps(maps)
    if method not in _METHODS:
        raise ValueError(f"Unknown resize method {method!r}; use one of {', '.join(_METHODS)}.")
    if method == "nearest" and (align_corners or antialias):
        raise ValueError(
            "method='nearest' has neither align_corners nor antialias; leave them out."
        )
    height, width = _check_shape(shape)
    h, w = maps.shape[-2:]
    if method == "nearest":
        rows = np.arange(height) * h // height
        columns = np.arange(width) * w // width
        return maps[..., rows[:, None], columns[None, :]]
    # A resize is linear and separable: one small matrix for the rows, one for the columns.
    for axis, (size, target) in ((-2, (h, height)), (-1, (w, width))):
        if size == target:
            continue
        matrix = resize_matrix(size, target, method, align_corners, antialias)
        matrix = jnp.asarray(matrix, maps.dtype)
        # HIGHEST: accelerators would otherwise round the operands to bfloat16 or TF32.
        maps = jnp.moveaxis(
            jnp.tensordot(maps, matrix, axes=((axis,), (1,)), precision=jax.lax.Precision.HIGHEST),
            -1,
            axis,
        )
    return maps


def gaussian_blur(
    maps: ArrayLike, sigma: float = 0.02, *, border: str = "reflect", truncate: float = 4.0
) -> jax.Array:
    """Blurs maps `(..., H, W)` by a Gaussian whose width is relative to the map's size.

    The standard deviation is `sigma * max(H, W)` pixels; the default 0.02 is what Zhang et al.
    (2018, section 6.1.1) apply to gradient maps before the pointing game. The kernel is sampled at
    whole pixels up to `truncate` standard deviations, normalised to a sum of one, and applied to
    rows and columns in turn.

    Args:
        maps: float array of rank >= 2.
        sigma: standard deviation as a fraction of the longer side, >= 0; 0 returns `maps`.
        border: how a map continues beyond its border: `"reflect"` mirrors it about the edge of the
            last pixel (`c b a | a b c`, which keeps the sum of the map), `"edge"` repeats that
            pixel, and `"zero"` continues with zeros.
        truncate: where the kernel ends, in standard deviations, > 0.

    Returns:
        The blurred maps, in the shape and dtype of `maps`.

    Raises:
        ValueError: negative or non-finite `sigma`, `truncate` that is not positive, unknown border.
        TypeError: `maps` is not a float array.

    >>> import jax.numpy as jnp
    >>> point = jnp.zeros((50, 50)).at[25, 25].set(1.0)
    >>> blurred = gaussian_blur(point)
    >>> round(float(blurred.sum()), 4), round(float(blurred.max()), 4)
    (1.0, 0.1592)
    """
    maps = _check_maps(maps)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma must be a finite fraction of the map's size, >= 0; got {sigma}.")
    if not truncate > 0:
        raise ValueError(
            f"truncate must be a positive number of standard deviations; got {truncate}."
        )
    if border not in _BORDERS:
        raise ValueError(f"Unknown border {border!r}; use one of {', '.join(_BORDERS)}.")
    height, width = maps.shape[-2:]
    pixels = sigma * max(height, width)
    radius = math.ceil(truncate * pixels)
    if radius == 0 or maps.size == 0:
        return maps
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / pixels) ** 2)
    kernel = jnp.asarray(kernel / kernel.sum(), maps.dtype)
    flat = maps.reshape(-1, 1, height, width)
    for axis in (2, 3):
        margins = [(0, 0)] * 4
        margins[axis] = (radius, radius)
        flat = jax.lax.conv(
            jnp.pad(flat, margins, mode=_BORDERS[border]),
            kernel.reshape((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)),
            window_strides=(1, 1),
            padding="VALID",
            precision=jax.lax.Precision.HIGHEST,
        )
    return flat.reshape(maps.shape)


def positive(maps: ArrayLike) -> jax.Array:
    """The positive part max(map, 0), elementwise; same shape and dtype.

    >>> positive([-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """
    return jax.nn.relu(_check_maps(maps, rank=0))


@overload
def tightest_box(masks: np.ndarray) -> np.ndarray: ...
@overload
def tightest_box(masks: jax.Array) -> jax.Array: ...
def tightest_box(masks):
    """The smallest box around the pixels of masks `(..., H, W)`: float32 `(..., 4)`.

    A box is (left, top, right, bottom), and right and bottom are the first outside. Without any
    pixel it is (0, 0, 0, 0), which overlaps with nothing. NumPy arrays stay on the host.

    >>> import jax.numpy as jnp
    >>> tightest_box(jnp.array([[0, 0, 0, 0], [0, 1, 0, 1]], bool)).tolist()
    [1.0, 1.0, 4.0, 2.0]
    """
    xp = np if isinstance(masks, np.ndarray) else jnp
    masks = xp.asarray(masks, bool)
    ends = []
    for axis in (-2, -1):  # columns, then rows
        line = masks.any(axis)
        first, last = line.argmax(-1), line.shape[-1] - line[..., ::-1].argmax(-1)
        ends.append((first, xp.where(line.any(-1), last, 0)))
    (left, right), (top, bottom) = ends
    return xp.stack([left, top, right, bottom], axis=-1).astype(np.float32)


def normalise_max(maps: ArrayLike) -> jax.Array:
    """Divides each map `(..., H, W)` by its largest absolute value, and so keeps signs and zero.

    Non-negative maps end in [0, 1], signed ones in [-1, 1]. A map of zeros stays zero. Same shape
    and dtype.

    >>> normalise_max([[1.0, -4.0]]).tolist()
    [[0.25, -1.0]]
    """
    maps = _check_maps(maps)
    return safe_divide(maps, jnp.max(jnp.abs(maps), axis=(-2, -1), keepdims=True, initial=0))


def normalise_percentile(maps: ArrayLike, q: float = 99.0) -> jax.Array:
    """Divides each map `(..., H, W)` by a percentile of its absolute values, clipped to [-1, 1].

    A few extreme pixels, which gradients have, then do not make the rest invisible. Where the q-th
    percentile is 0 (a sparse map) the largest absolute value takes its place. Same shape and dtype.

    Raises:
        ValueError: `q` is not in (0, 100].

    >>> normalise_percentile([[0.0, 1.0, 2.0, 3.0, -100.0]], 75).tolist()
    [[0.0, 0.333..., 0.666..., 1.0, -1.0]]
    """
    maps = _check_maps(maps)
    if not 0 < q <= 100:
        raise ValueError(f"q must be a percentile in (0, 100]; got {q}.")
    if maps.size == 0:
        return maps
    sizes = jnp.abs(maps)
    high = jnp.percentile(sizes, q, axis=(-2, -1), keepdims=True)
    high = jnp.where(high > 0, high, jnp.max(sizes, axis=(-2, -1), keepdims=True))
    return jnp.clip(safe_divide(maps, high.astype(maps.dtype)), -1, 1)


def normalise_min_max(maps: ArrayLike, eps: float = 0.0) -> jax.Array:
    """Scales each map `(..., H, W)` to [0, 1]: (m - min) / (max - min + eps).

    A constant map becomes 0. It hides where zero was, so no preset of ours uses it; it is here
    because packages do: `eps=1e-7` is pytorch_grad_cam's `scale_cam_image`. Same shape and dtype.

    >>> normalise_min_max([[-1.0, 0.0, 3.0]]).tolist()
    [[0.0, 0.25, 1.0]]
    """
    maps = _check_maps(maps)
    if maps.size == 0:
        return maps
    maps = maps - jnp.min(maps, axis=(-2, -1), keepdims=True)
    return safe_divide(maps, jnp.max(maps, axis=(-2, -1), keepdims=True) + eps)


def apply(preset: str, maps: ArrayLike, shape: tuple[int, int]) -> jax.Array:
    """Applies a named preset to maps `(..., h, w)`; `shape` is the image's (H, W).

    | preset | what it does | after |
    | --- | --- | --- |
    | `pointing_game_eb` | bicubic | Zhang et al. 2018, section 6.1.1: MWP, c-MWP, CAM |
    | `pointing_game_gradient` | bicubic, blur 0.02 max(H, W) | the same: gradient, DeconvNet, LRP |
    | `c_mwp` | positive part, bicubic | Zhang et al. 2018, section 3.3: c-MWP truncated at 0 |
    | `grad_cam` | positive part, bilinear | Selvaraju et al. 2017 |
    | `pytorch_grad_cam` | positive part, min-max with 1e-7, bilinear | package grad-cam 1.5.7 |
    | `captum_guided_grad_cam` | positive part, nearest | captum 0.9.0's upsampled Grad-CAM |
    | `panel` | positive part, bilinear, divided by its maximum | jaxplain's pictures |
    | `panel_signed` | bilinear, blur of 0.004 max(H, W), 99th percentile, in [-1, 1] | the same |

    Raises:
        ValueError: unknown preset; the message lists them.

    >>> import jax.numpy as jnp
    >>> apply("panel", jnp.array([[0.0, 2.0], [4.0, -1.0]]), (2, 2)).tolist()
    [[0.0, 0.5], [1.0, 0.0]]
    """
    if preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}; use one of {', '.join(PRESETS)}.")
    return PRESETS[preset](maps, shape)


#: Preset name -> function of (maps, shape); what each does is said in `apply`.
PRESETS: Mapping[str, Callable[[ArrayLike, tuple[int, int]], jax.Array]] = MappingProxyType(
    {
        "pointing_game_eb": lambda maps, shape: resize(maps, shape, "bicubic"),
        "pointing_game_gradient": lambda maps, shape: gaussian_blur(
            resize(maps, shape, "bicubic"), 0.02
        ),
        "c_mwp": lambda maps, shape: resize(positive(maps), shape, "bicubic"),
        "grad_cam": lambda maps, shape: resize(positive(maps), shape),
        "pytorch_grad_cam": lambda maps, shape: resize(
            normalise_min_max(positive(maps), 1e-7), shape
        ),
        "captum_guided_grad_cam": lambda maps, shape: resize(positive(maps), shape, "nearest"),
        "panel": lambda maps, shape: normalise_max(resize(positive(maps), shape)),
        "panel_signed": lambda maps, shape: normalise_percentile(
            gaussian_blur(resize(maps, shape), 0.004), 99.0
        ),
    }
)


@functools.lru_cache(maxsize=256)
def resize_matrix(
    size: int, target: int, method: str, align_corners: bool = False, antialias: bool = False
) -> np.ndarray:
    """The (target, size) interpolation matrix, in float64; each row adds up to one."""
    if align_corners:
        step = (size - 1) / (target - 1) if target > 1 else 0.0
        centres = np.arange(target) * step
    else:
        step = size / target
        centres = (np.arange(target) + 0.5) * step - 0.5
    # Linear interpolation with the border continued is interpolation at clipped positions.
    centres = np.clip(centres, 0, size - 1) if method == "bilinear" and not antialias else centres
    width = max(step, 1.0) if antialias else 1.0
    distance = np.abs(centres[:, None] - np.arange(size)[None, :]) / width
    weights = _triangle(distance) if method == "bilinear" else _keys_cubic(distance)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - x)


def _keys_cubic(x: np.ndarray) -> np.ndarray:
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _check_maps(maps: ArrayLike, rank: int = 2) -> jax.Array:
    maps = jnp.asarray(maps)
    if not jnp.issubdtype(maps.dtype, jnp.floating):
        raise TypeError(f"Maps must be a float array, not {maps.dtype}; convert with astype.")
    if maps.ndim < rank:
        raise ValueError(f"Maps must have shape (..., H, W); got shape {maps.shape}.")
    return maps


def _check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"The target shape must be (height, width); got {tuple(shape)}.")
    height, width = (operator.index(n) for n in shape)
    if height < 1 or width < 1:
        raise ValueError(f"The target shape must be positive, (H, W); got {tuple(shape)}.")
    return height, width
