"""From a photograph to what a network takes: one way to resize, and one to normalise.

Every new shape makes JAX compile a program, and photographs come in hundreds of sizes. So images
are resized on the host, to one of few shapes, and everything after that runs in compiled programs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.models.config import ModelConfig
from jaxplain.models.pixels import over_white, rgb_pixels

#: How many rows are made at a time: few steps in Python, and few weights that are 0.
_BLOCK = 8
#: Multiplications in one matrix product. From twice as many on, BLAS starts threads, which then
#: wait for each other and for the network's: beside them that takes 25 times as long.
_PRODUCT = 1 << 17


def _linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """R. G. Keys, Cubic convolution interpolation for digital image processing, 1981, a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


#: Interpolation -> its kernel, and the distance from which on that is 0.
_KERNELS = {"bicubic": (_cubic, 2), "bilinear": (_linear, 1)}


def _resize_rows(x: np.ndarray, new: int, interpolation: str) -> np.ndarray:
    """``(size, m)`` to float32 ``(new, m)``, as ``jax.image.resize`` with antialiasing does."""
    kernel, reach = _KERNELS[interpolation]
    size = len(x)
    stretch = max(size / new, 1.0)
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    result = np.empty((new, x.shape[1]), np.float32)
    for start in range(0, new, _BLOCK):
        block = centres[start : start + _BLOCK]
        low = max(int(np.ceil(block[0] - reach * stretch)), 0)
        high = min(int(block[-1] + reach * stretch) + 1, size)
        weights = kernel(np.abs(block[:, None] - np.arange(low, high)) / stretch)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        rows = x[low:high].astype(np.float32, copy=False)
        width = max(16, _PRODUCT // weights.size)
        for left in range(0, x.shape[1], width):
            part = slice(left, left + width)
            np.matmul(weights, rows[:, part], out=result[start : start + _BLOCK, part])
    return result


def _resized(pixels: np.ndarray, shape: tuple[int, int], interpolation: str) -> np.ndarray:
    """``(H, W, 3)`` to float32 ``(h, w, 3)``, within 0 to 255."""
    (height, width), (h, w) = pixels.shape[:2], shape
    # In NumPy: JAX would compile a program for every size of photograph.
    x = _resize_rows(pixels.reshape(height, width * 3), h, interpolation)
    x = np.ascontiguousarray(x.reshape(h, width, 3).swapaxes(0, 1)).reshape(width, h * 3)
    x = _resize_rows(x, w, interpolation).reshape(w, h, 3).swapaxes(0, 1)
    return np.clip(x, 0.0, 255.0)  # the bicubic kernel overshoots at edges


def aspect_shape(size: tuple[int, int], short: int = 224, multiple: int = 16) -> tuple[int, int]:
    """The shape (height, width) to resize to: the short side is ``short``, the aspect is kept.

    The long side is rounded to ``short`` plus a multiple of ``multiple`` pixels, so that few shapes
    occur; with ``short=224`` and ``multiple=16`` the aspect changes by at most 3.6 %.

    Raises:
        ValueError: a number is not positive.

    Example:
        >>> from jaxplain.data import aspect_shape
        >>> aspect_shape((375, 500)), aspect_shape((333, 500)), aspect_shape((500, 375), multiple=1)
        ((224, 304), (224, 336), (299, 224))
    """
    height, width = size
    if min(height, width, short, multiple) < 1:
        raise ValueError(
            f"size, short and multiple must be positive, not {size}, {short} and {multiple}."
        )
    long = short * max(height, width) / min(height, width)
    long = short + multiple * round((long - short) / multiple)
    return (short, long) if height <= width else (long, short)


def resize_image(
    image: np.ndarray, shape: tuple[int, int], interpolation: str = "bilinear"
) -> np.ndarray:
    """An image uint8 ``(H, W, 3)`` resized to ``shape`` on the host, with antialiasing, in uint8.

    It is what ``preprocess`` makes of the image, rounded.

    Args:
        image: uint8 ``(H, W, 3)``.
        shape: (height, width) of the result.
        interpolation: ``bilinear`` or ``bicubic``, as ``ModelConfig.interpolation``.

    Raises:
        ValueError: unknown interpolation, the image is of another form, or a side is not positive.

    Example:
        >>> import numpy as np
        >>> from jaxplain.data import resize_image
        >>> resize_image(np.full((4, 8, 3), 7, np.uint8), (2, 4)).tolist()[0]
        [[7, 7, 7], [7, 7, 7], [7, 7, 7], [7, 7, 7]]
    """
    if interpolation not in _KERNELS:
        raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {interpolation!r}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(f"The image must be uint8 (H, W, 3), not {image.dtype} {image.shape}.")
    height, width = shape
    if min(height, width) < 1:
        raise ValueError(f"The new shape must be (height, width), both positive, not {shape}.")
    if image.shape[:2] == (height, width):
        return image
    return np.rint(_resized(image, (height, width), interpolation)).astype(np.uint8)


def normalise(pixels: Any, config: ModelConfig) -> Any:
    """Pixels 0 to 255 as the network wants them, float32: ``(pixel - mean) / scale``.

    Works on NumPy and JAX arrays ``(..., 3)``, inside ``jit`` too.

    Example:
        >>> import numpy as np
        >>> from jaxplain.data import normalise
        >>> from jaxplain.models import ModelConfig
        >>> config = ModelConfig("net", 8, (127.0,), (128.0,))
        >>> normalise(np.array([[255, 127, 127]], np.uint8), config)
        array([[1., 0., 0.]], dtype=float32)
    """
    mean, scale = (np.asarray(v, np.float32) for v in (config.mean, config.scale))
    return (pixels.astype(np.float32) - mean) / scale


def crop_box(height: int, width: int, config: ModelConfig) -> tuple[int, int, int]:
    """The central square that ``preprocess`` cuts out: (top, left, side) in pixels.

    Example:
        >>> from jaxplain.models import ModelConfig, crop_box
        >>> crop_box(400, 600, ModelConfig("net", 224, (0.0,), (1.0,), crop_fraction=0.875))
        (25, 125, 350)
    """
    side = max(1, int(min(height, width) * config.crop_fraction))
    return (height - side + 1) // 2, (width - side + 1) // 2, side


def preprocess(image: Any, config: ModelConfig, *, crop: bool = True) -> jax.Array:
    """Makes the input of a network from a photograph.

    Args:
        image: uint8 array ``(H, W, 3)``, ``(H, W, 4)`` (with alpha: white shows through) or
            ``(H, W)`` (grey), or a Pillow image of any mode. `jaxplain.data.read_image` makes the
            array from a file, and turns photographs upright.
        config: the network's description, ``model.config``.
        crop: True cuts out the central square as at evaluation; False takes the
            whole image and stretches it to a square, so that nothing of it goes unexplained.

    Returns:
        float32 ``(1, input_size, input_size, 3)``: ``(pixel - mean) / scale``, resized with
        antialiasing.

    Raises:
        TypeError: the image is not of uint8.
        ValueError: it has another shape, no pixels, or, as a Pillow image, values of unknown range.

    Example:
        >>> import numpy as np
        >>> from jaxplain.models import ModelConfig, preprocess
        >>> config = ModelConfig("net", 32, (127.0,), (128.0,))
        >>> x = preprocess(np.full((40, 60, 3), 255, np.uint8), config)
        >>> x.shape, round(float(x.max()), 3)
        ((1, 32, 32, 3), 1.0)
    """
    # Pillow itself is not needed.
    pixels = rgb_pixels(image) if hasattr(image, "convert") else np.asarray(image)
    if pixels.dtype != np.uint8:
        raise TypeError(f"The image must be of uint8 (0 to 255), not of {pixels.dtype}.")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"The image must be of shape (H, W, 3), not {pixels.shape}.")
    if pixels.shape[-1] == 4:
        pixels = over_white(pixels)
    if crop:
        top, left, side = crop_box(pixels.shape[0], pixels.shape[1], config)
        pixels = pixels[top : top + side, left : left + side]
    x = _resized(pixels, (config.input_size, config.input_size), config.interpolation)
    return jnp.asarray(normalise(x, config))[None]
