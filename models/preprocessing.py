"""From a photograph to what a network takes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.models.config import ModelConfig


def _linear(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """R. G. Keys, Cubic convolution interpolation for digital image processing, 1981, a = -1/2."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_KERNELS = {"bicubic": _cubic, "bilinear": _linear}


def _resampling(size: int, new: int, interpolation: str) -> np.ndarray:
    """The matrix (new, size) of ``jax.image.resize`` with antialiasing along one axis."""
    centres = (np.arange(new) + 0.5) * size / new - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)) / max(size / new, 1)
    weights = _KERNELS[interpolation](distance)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


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
      image: uint8 array ``(H, W, 3)``, ``(H, W, 4)`` (alpha is dropped) or ``(H, W)`` (grey), or a
        Pillow image.
      config: the network's description, ``model.config``.
      crop: True cuts out the central square as at evaluation; False takes the
        whole image and stretches it to a square, so that nothing of it goes unexplained.

    Returns:
      float32 ``(1, input_size, input_size, 3)``: ``(pixel - mean) / scale``, resized with
      antialiasing.

    Raises:
      TypeError: the image is not of uint8.
      ValueError: it has another shape, or no pixels.

    Example:
      >>> import numpy as np
      >>> from jaxplain.models import ModelConfig, preprocess
      >>> config = ModelConfig("net", 32, (127.0,), (128.0,))
      >>> x = preprocess(np.full((40, 60, 3), 255, np.uint8), config)
      >>> x.shape, round(float(x.max()), 3)
      ((1, 32, 32, 3), 1.0)
    """
    if hasattr(image, "convert"):  # a Pillow image; Pillow itself is not needed
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise TypeError(f"The image must be of uint8 (0 to 255), not of {pixels.dtype}.")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4) or 0 in pixels.shape:
        raise ValueError(f"The image must be of shape (H, W, 3), not {pixels.shape}.")
    pixels = pixels[..., :3]
    if crop:
        top, left, side = crop_box(*pixels.shape[:2], config)
        pixels = pixels[top : top + side, left : left + side]
    # In NumPy: JAX would compile a program for every size of photograph.
    rows, columns = (
        _resampling(n, config.input_size, config.interpolation) for n in pixels.shape[:2]
    )
    x = np.tensordot(rows, pixels.astype(np.float32), 1)
    x = np.einsum("hwc,vw->hvc", x, columns, optimize=True)
    x = np.clip(x, 0.0, 255.0)  # the bicubic kernel overshoots at edges
    mean, scale = (np.asarray(v, np.float32) for v in (config.mean, config.scale))
    return jnp.asarray((x - mean) / scale)[None]
