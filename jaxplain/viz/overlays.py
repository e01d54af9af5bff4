"""A map drawn over the image it explains."""

from __future__ import annotations

import numpy as np

from jaxplain.viz.colour import colourise


def overlay(
    image: np.ndarray,
    heat_map: np.ndarray,
    style: str = "heat",
    *,
    strength: float = 0.75,
    cmap: str | None = None,
    clip: float = 100.0,
) -> np.ndarray:
    """Draws a map over an image; the image shows through where the map is near zero.

    The map is resized to the image (bilinear, half-pixel centres) and scaled by the style's preset,
    see `jaxplain.viz.colourise`. The colour's share at a pixel is `strength * |value|^0.6`, so that
    weak evidence stays visible. Pixel-wise detail would drown in the image: under style `"signed"`
    the image is pale gray, and style `"gray"` leaves it out.

    Args:
        image: (H, W, 3), uint8, or float in [0, 1].
        heat_map: float array (h, w) of any size, or (h, w, 3) for style `"gray"`.
        style: `"heat"`, `"signed"` or `"gray"`.
        strength: largest share of the colour, in [0, 1], for `"heat"`; `"signed"` takes the full
            colour.
        cmap: a colour map of matplotlib in place of the style's.
        clip: what is larger than this percentile of the map's own values' sizes is drawn as that:
            single outliers, as the tokens with massive activations of large transformers, would
            hide the rest. 100 clips nothing.

    Returns:
        The picture, (H, W, 3) float32 in [0, 1].

    Raises:
        ValueError: an image of another shape or range, a percentile not in (0, 100], and as
            `jaxplain.viz.colourise`.
        TypeError: an image of another dtype.

    >>> image = np.full((8, 8, 3), 255, np.uint8)
    >>> overlay(image, np.eye(2, dtype=np.float32)).shape
    (8, 8, 3)
    """
    image = as_float_image(image)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1]; got {strength}.")
    if not 0 < clip <= 100:
        raise ValueError(f"clip must be a percentile in (0, 100]; got {clip}.")
    if clip < 100:
        heat_map = np.asarray(heat_map)
        largest = np.percentile(np.abs(heat_map), clip)
        heat_map = np.clip(heat_map, -largest, largest)
    colours, values = colourise(heat_map, style, image.shape[:2], cmap=cmap)
    return blended(image, colours, values, style, strength)


def share_of(values: np.ndarray, style: str, strength: float) -> np.ndarray:
    """The share of the colour that stands for scaled values, in [0, 1]; see `overlay`."""
    if style == "gray":
        return np.ones_like(values)
    return (strength if style == "heat" else 1.0) * np.abs(values) ** 0.6


def blended(
    image: np.ndarray, colours: np.ndarray, values: np.ndarray, style: str, strength: float = 0.75
) -> np.ndarray:
    """Colours (H, W, 3) that stand for scaled values (H, W) over a float image; see `overlay`."""
    if style == "gray":
        return colours
    share = share_of(values, style, strength)[..., None]
    picture = (1 - share) * _background(image, style) + share * colours
    return np.clip(picture, 0, 1)  # float32 may end a hair above one


def draw_box(image: np.ndarray, box: np.ndarray, *, width: int = 3) -> np.ndarray:
    """An image with the outline of a box, in green, as in Fig. 8 of Zhang et al. (2018).

    Args:
        image: (H, W, 3), uint8, or float in [0, 1].
        box: (left, top, right, bottom) in its pixels, half-open; an empty box is not drawn.
        width: of the outline in pixels, inside the box.

    Returns:
        The picture, (H, W, 3) float32 in [0, 1].

    >>> picture = draw_box(np.zeros((5, 6, 3)), np.array([1, 1, 5, 4]), width=1)
    >>> picture[..., 1].astype(int).tolist()[1:4]
    [[0, 1, 1, 1, 1, 0], [0, 1, 0, 0, 1, 0], [0, 1, 1, 1, 1, 0]]
    """
    picture = as_float_image(image).copy()
    left, top, right, bottom = (round(float(v)) for v in box)
    inner = picture[top + width : bottom - width, left + width : right - width].copy()
    picture[top:bottom, left:right] = (0.0, 1.0, 0.0)
    if inner.size:
        picture[top + width : bottom - width, left + width : right - width] = inner
    return picture


def as_float_image(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3), uint8 or float in [0, 1], as float32 in [0, 1]."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"An image must have shape (H, W, 3); got {image.shape}.")
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"An image must be uint8, or float in [0, 1]; got {image.dtype}.")
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"A float image must be in [0, 1]; got values from {image.min()} to {image.max()}."
        )
    return image.astype(np.float32)


def _background(image: np.ndarray, style: str) -> np.ndarray:
    """The image with less colour: the map's colours must not be mistaken for its own."""
    luminance = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return 0.35 * image + 0.65 * luminance if style == "heat" else 0.65 + 0.35 * luminance
