"""The pixels of a Pillow image, whatever its mode: 8 bits of red, green and blue, or of grey.

Pillow converts most modes itself. What it would clip, misread or drop is settled here: more than 8
bits, transparency, and the transparent colour of files with another depth than their pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Modes whose pixels are 16-bit or 32-bit whole numbers, or floats; Pillow clips them at 255.
_DEEP = ("I", "F")
#: What Pillow multiplies the samples of a PNG with, but not the transparent colour.
_SAMPLE_SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}


def rgb_pixels(image: Any) -> np.ndarray:
    """A Pillow image as uint8 ``(H, W, 3)``.

    Transparent pixels show white through. Whole numbers of 16 bits count from 0 to 65535. Of other
    images with more than 8 bits, the greatest value tells the range: floats are 0 to 1 or 0 to 255,
    whole numbers of 32 bits 0 to 255 or 0 to 65535. Of several pictures in a file it is the first.
    Colour profiles are not applied, and the image is not turned.

    Args:
        image: a ``PIL.Image.Image``, whose file may still be open.

    Raises:
        ValueError: the image has no pixels, or values outside these ranges.

    Example:
        >>> from PIL import Image
        >>> from jaxplain.models.pixels import rgb_pixels
        >>> rgb_pixels(Image.new("LA", (1, 1), (0, 51))).tolist()  # black, of 20 % opacity
        [[[204, 204, 204]]]
    """
    raw = _raw_mode(image)
    _load(image)
    if image.mode.startswith(_DEEP):
        grey = np.rint(255 * _deep_levels(image, raw)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        return over_white(_with_alpha(image, raw))
    return np.asarray(image.convert("RGB"))


def grey_levels(image: Any) -> np.ndarray:
    """A Pillow image as float32 ``(H, W)`` from 0 to 1; more than 8 bits keep their precision.

    Ranges are those of ``rgb_pixels``; transparency is left aside.

    Raises:
        ValueError: the image has no pixels, or values outside these ranges.
    """
    raw = _raw_mode(image)
    _load(image)
    if image.mode.startswith(_DEEP):
        return _deep_levels(image, raw)
    if image.has_transparency_data:
        image = _rgba(image)
    return np.asarray(image.convert("L"), np.float32) / 255


def over_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``(H, W, 4)``, the last channel the opacity, to uint8 ``(H, W, 3)`` over white.

    Example:
        >>> import numpy as np
        >>> from jaxplain.models.pixels import over_white
        >>> over_white(np.array([[[0, 100, 255, 0], [0, 100, 255, 255]]], np.uint8)).tolist()
        [[[255, 255, 255], [0, 100, 255]]]
    """
    colour, opacity = (part.astype(np.uint16) for part in (pixels[..., :3], pixels[..., 3:]))
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _raw_mode(image: Any) -> str:
    """How the samples lie in the file, as Pillow calls it; '' when the file is not known.

    It has to be asked for before the pixels are loaded.
    """
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else ""


def _load(image: Any) -> None:
    if 0 in image.size:
        raise ValueError(f"it has no pixels: its size is {image.width} x {image.height}")
    image.load()


def _deep_levels(image: Any, raw: str) -> np.ndarray:
    """float32 ``(H, W)`` from 0 to 1, of an image with more than 8 bits."""
    values = np.asarray(image).astype(np.float32)
    levels = values / _limit(image, raw, values)
    key = image.info.get("transparency")
    if isinstance(key, int):
        levels[values == key] = 1  # white
    tags = getattr(image, "tag_v2", {})
    return 1 - levels if tags.get(262) == 0 else levels  # TIFF's photometry: 0 is white


def _limit(image: Any, raw: str, values: np.ndarray) -> int:
    """The value that is white.

    Raises:
        ValueError: no range that is known fits these values.
    """
    if raw == "I;12":
        return 4095
    whole = not image.mode.startswith("F")
    if image.mode.startswith("I;16") or (whole and image.format in ("PNG", "PPM")):
        return 65535
    low, high = float(values.min()), float(values.max())
    for limit in (255, 65535) if whole else (1, 255):
        # Between 1 and 2, floats are more likely 0 to 1 and a little more, than 0 to 255 and black.
        if low >= 0 and high <= limit and (whole or limit == 1 or high >= 2):
            return limit
    kind = "numbers" if whole else "floating-point numbers"
    known = "0 to 255 or 0 to 65535" if whole else "0 to 1 or 0 to 255"
    raise ValueError(f"its pixels are {kind} from {low:g} to {high:g}; only {known} is known")


def _with_alpha(image: Any, raw: str) -> np.ndarray:
    """uint8 ``(H, W, 4)``."""
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode in ("1", "L", "RGB") and key is not None:
        scale = _SAMPLE_SCALES.get(raw, 1)
        if image.mode == "RGB":
            key = tuple(int(k * scale) for k in key)
        elif image.mode == "1":
            key = 255 if key else 0  # releases of Pillow differ here
        else:
            key = key * scale
        image = image.copy()  # the caller's image stays as it is
        image.info["transparency"] = key
    return np.asarray(_rgba(image))


def _rgba(image: Any) -> Any:
    if image.mode == "La":  # Pillow takes this way in two steps
        image = image.convert("LA")
    return image.convert("RGBA")
