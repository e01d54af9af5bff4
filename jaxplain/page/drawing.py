"""The pictures of a gallery: photographs, thumbnails, and maps that the page colours itself."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxplain import postprocess
from jaxplain.page.numbers import Entry, Look, of_shapes
from jaxplain.viz.colour import STYLES, colours_of
from jaxplain.viz.overlays import blended, share_of

#: Longest side of a thumbnail.
THUMBNAIL = 176
#: Longest side of a map on the page: maps at the image are made smaller.
_LARGEST = 112
#: Largest share of the colour of heat maps.
_STRENGTH = 0.75


class Shown:
    """A record to its picture, of a longest side; can be sent to worker processes."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, record: Any) -> np.ndarray:
        return np.asarray(_within(record.image, self.size))


def _within(pixels: np.ndarray, size: int) -> Any:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return image


def jpeg(pixels: np.ndarray, path: Path) -> None:
    """Writes a picture, uint8 ``(H, W, 3)``."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    path.write_bytes(buffer.getvalue())


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A map as it is drawn: values in [-1, 1], scaled as `jaxplain.viz` does it."""

    values: np.ndarray

    def packed(self) -> list[Any]:
        """Height, width, and the values as bytes: 127 stands for 0, 254 for 1."""
        levels = np.rint(127 + 127 * self.values.clip(-1, 1)).astype(np.uint8)
        return [*levels.shape, base64.b64encode(levels.tobytes()).decode()]


def drawn(heat_map: np.ndarray, style: str) -> Drawn:
    """A map as `draw` scales it."""
    heat_map = np.abs(heat_map) if style == "gray" else heat_map
    return Drawn(np.asarray(_scaled(STYLES[style][0])(heat_map)))


def draw(entries: Sequence[Entry], looks: Sequence[Look]) -> list[list[Drawn]]:
    """The maps of each entry, scaled by the preset of each method's style."""
    columns = []
    for i, look in enumerate(looks):
        maps = [np.abs(e.maps[i]) if look.style == "gray" else e.maps[i] for e in entries]
        columns.append([Drawn(v) for v in of_shapes(_scaled(STYLES[look.style][0]), maps)])
    return [list(row) for row in zip(*columns, strict=True)]


@functools.cache
def _scaled(preset: str) -> Any:
    @jax.jit
    def scaled(maps: jax.Array) -> jax.Array:
        h, w = maps.shape[-2:]
        share = min(1.0, _LARGEST / max(h, w))
        return postprocess.apply(preset, maps, (max(1, round(share * h)), max(1, round(share * w))))

    return scaled


def thumbnail(
    photo: np.ndarray,
    drawn: Drawn,
    style: str,
    size: int = THUMBNAIL,
    opacity: float = 1.0,
    cmap: str | None = None,
) -> np.ndarray:
    """A photograph of at most a size with a map over it, uint8; ``cmap`` is for heat maps."""
    from PIL import Image

    small = np.asarray(_within(photo, size))
    enlarged = Image.fromarray(drawn.values.astype(np.float32)).resize(
        (small.shape[1], small.shape[0]), Image.Resampling.BILINEAR
    )
    values = np.asarray(enlarged).clip(-1, 1)
    colours = colours_of(values, style, cmap if style == "heat" else None)
    bare = small.astype(np.float32) / 255
    picture = opacity * blended(bare, colours, values, style, _STRENGTH) + (1 - opacity) * bare
    return np.rint(255 * picture).astype(np.uint8)


def colour_table(style: str) -> str:
    """Red, green, blue and opacity of each of the 255 levels of `Drawn.packed`, in base64."""
    values = (np.arange(255, dtype=np.float32) - 127) / 127
    values = values if style == "signed" else values.clip(0)
    share = share_of(values, style, _STRENGTH)
    table = np.concatenate([colours_of(values, style), share[:, None]], 1)
    return base64.b64encode(np.rint(255 * table).astype(np.uint8).tobytes()).decode()
