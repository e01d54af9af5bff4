"""From a photograph to pixels of one of few shapes, and from pixels to a network's input.

Every new shape makes JAX compile a program, and photographs come in hundreds of sizes. So images
are resized on the host, to one of few shapes, and everything after that runs in compiled programs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxplain.models import ModelConfig

__all__ = ["aspect_shape", "normalise", "resize_image"]


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

    Args:
      image: uint8 ``(H, W, 3)``.
      shape: (height, width) of the result.
      interpolation: ``bilinear`` or ``bicubic``, as ``ModelConfig.interpolation``.

    Raises:
      ValueError: unknown interpolation, or the image is of another form.
      ImportError: Pillow is not installed.

    Example:
      >>> import numpy as np
      >>> from jaxplain.data import resize_image
      >>> resize_image(np.full((4, 8, 3), 7, np.uint8), (2, 4)).tolist()[0]
      [[7, 7, 7], [7, 7, 7], [7, 7, 7], [7, 7, 7]]
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {interpolation!r}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"The image must be uint8 (H, W, 3), not {image.dtype} {image.shape}.")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'Resizing images needs Pillow; install it with pip install "jaxplain[data]".'
        ) from error
    if image.shape[:2] == tuple(shape):
        return image
    kernel = getattr(Image.Resampling, interpolation.upper())
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), kernel))


def normalise(pixels: Any, config: ModelConfig) -> Any:
    """Pixels 0 to 255 as the network wants them, float32: ``(pixel - mean) / scale``.

    Works on NumPy and JAX arrays ``(..., 3)``, inside ``jit`` too.

    Example:
      >>> import numpy as np
      >>> from jaxplain.data import normalise
      >>> from jaxplain.models import ModelConfig
      >>> normalise(np.array([[255, 127, 127]], np.uint8), ModelConfig("n", 8, (127.0,), (128.0,)))
      array([[1., 0., 0.]], dtype=float32)
    """
    mean, scale = (np.asarray(v, np.float32) for v in (config.mean, config.scale))
    return (pixels.astype(np.float32) - mean) / scale
