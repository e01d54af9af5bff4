"""Values to colours. A style says what a map's values mean, and so how they may be shown."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.colors import Colormap

from jaxplain import postprocess
from jaxplain.core.errors import suggest

#: Style -> (preset of `jaxplain.postprocess` that scales the map, matplotlib colour map). The
#: colour maps are even to the eye, and can be told apart whatever one's colour vision.
STYLES = {
    "heat": ("panel", "plasma"),  # how much: the positive part, 0 to its maximum
    "signed": ("panel_signed", "RdBu_r"),  # red speaks for, blue against, white is zero
    "gray": ("panel_signed", "gray"),  # pixel-wise strength: black is zero, white the strongest
}


def colourise(
    heat_map: np.ndarray,
    style: str = "heat",
    shape: tuple[int, int] | None = None,
    *,
    cmap: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scales a map by its style's preset and looks its colours up.

    - `"heat"`: positive part divided by its maximum; from dark blue (0) to yellow (1).
    - `"signed"`: slightly blurred, divided by the 99th percentile of its size; blue below zero,
      red above.
    - `"gray"`: size of the value, slightly blurred, divided by its 99th percentile; black to
      white. A map with a last axis of 3 colour channels is shown as colours around mid-gray
      instead.

    Args:
        heat_map: float array (h, w), or (h, w, 3) for `"gray"`.
        style: one of `STYLES`.
        shape: (H, W) to which the map is resized; its own by default.
        cmap: a colour map of matplotlib in place of the style's.

    Returns:
        Colours (H, W, 3) in [0, 1], float32; and the scaled values they stand for, in [-1, 1]:
        (H, W), or (H, W, 3) for a coloured map.

    Raises:
        ValueError: unknown style or colour map, wrong shape, or a map that is not finite.

    >>> colours, values = colourise(np.array([[0.0, 2.0], [4.0, -1.0]], np.float32), "heat")
    >>> values.tolist()
    [[0.0, 0.5], [1.0, 0.0]]
    >>> colours.shape
    (2, 2, 3)
    """
    if style not in STYLES:
        raise ValueError(f"Unknown style {style!r}; use one of {', '.join(STYLES)}.")
    heat_map = np.asarray(heat_map, np.float32)
    coloured = style == "gray" and heat_map.ndim == 3 and heat_map.shape[-1] == 3
    if not (heat_map.ndim == 2 or coloured) or 0 in heat_map.shape:
        raise ValueError(
            f"A map must have shape (h, w), or (h, w, 3) for style 'gray'; "
            f"got {heat_map.shape} for style {style!r}."
        )
    if not np.isfinite(heat_map).all():
        raise ValueError("The map holds NaN or infinity; only finite maps can be drawn.")
    preset, _ = STYLES[style]
    shape = heat_map.shape[:2] if shape is None else shape
    if coloured:
        # One scale for the three channels, so that the hue is that of the gradient.
        values = np.asarray(postprocess.resize(np.moveaxis(heat_map, -1, 0), shape))
        flat = postprocess.normalise_percentile(values.reshape(3, -1)[None], 99.5)
        values = np.moveaxis(np.asarray(flat).reshape(values.shape), 0, -1)
        return (0.5 + 0.5 * values).astype(np.float32), values
    heat_map = np.abs(heat_map) if style == "gray" else heat_map
    values = np.asarray(postprocess.apply(preset, heat_map, shape))
    return colours_of(values, style, cmap), values


def colours_of(values: np.ndarray, style: str, cmap: str | None = None) -> np.ndarray:
    """The colours of scaled values ``(...)``, float32 ``(..., 3)``; see `colourise`."""
    positions = 0.5 + 0.5 * values if style == "signed" else values
    return colour_map(cmap or STYLES[style][1])(positions)[..., :3].astype(np.float32)


def colour_map(name: str) -> Colormap:
    """A colour map of matplotlib.

    Raises:
        ValueError: there is none of this name; the nearest are suggested.
    """
    if name not in matplotlib.colormaps:
        raise ValueError(f"unknown colour map {name!r}{suggest(name, matplotlib.colormaps)}")
    return matplotlib.colormaps[name]
