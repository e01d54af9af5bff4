"""The markup of the page in the browser: maps side by side, with the value under the cursor."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np

from jaxplain.explanation import Explanation
from jaxplain.page.drawing import drawn, thumbnail

_SIDE = 448

STYLE = """
.jp-row { display: grid; gap: 0.8rem; }
.jp-row { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }
.jp-row figure { margin: 0; }
.jp-row img { width: 100%; display: block; cursor: crosshair; }
.jp-row figcaption { overflow-wrap: anywhere; }
.jp-class { font-weight: 600; margin: 0.8rem 0 0.3rem; overflow-wrap: anywhere; }
.jp-value { font-variant-numeric: tabular-nums; min-height: 1.5em; display: block; }
.jp-wrong { border-left: 4px solid #c22; padding-left: 0.6rem; }
.jp-code { overflow-x: auto; font-size: 0.85rem; }
.jp-said { overflow-wrap: anywhere; }
"""

#: Reads the value of a map under the pointer from the numbers that its picture carries.
HEAD = """<script>
addEventListener("pointermove", (event) => {
  const image = event.target.closest && event.target.closest("img[data-map]");
  if (!image) return;
  if (!image.jaxplain) {
    const bytes = Uint8Array.from(atob(image.dataset.map), (one) => one.charCodeAt(0));
    image.jaxplain = new Float32Array(bytes.buffer);
  }
  const [rows, columns] = image.dataset.shape.split(" ").map(Number);
  const box = image.getBoundingClientRect();
  const at = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
  const row = at((event.clientY - box.top) / box.height, rows);
  const column = at((event.clientX - box.left) / box.width, columns);
  const value = image.jaxplain[row * columns + column];
  image.closest("figure").querySelector(".jp-value").textContent =
    `${value.toPrecision(4)} at row ${row}, column ${column} of ${rows} x ${columns}`;
});
</script>"""


def message(text: str, *, wrong: bool = False) -> str:
    """A sentence for the page."""
    kind = "jp-said jp-wrong" if wrong else "jp-said"
    return f'<p class="{kind}" role="{"alert" if wrong else "status"}">{html.escape(text)}</p>'


def program(text: str) -> str:
    """Lines of Python for the page."""
    code = html.escape(text)
    return (
        '<p class="jp-class">The same in Python</p>'
        f'<pre class="jp-code" tabindex="0" aria-label="Python" role="region">{code}</pre>'
    )


def pictures(about: Explanation, opacity: float, cmap: str) -> tuple[str, Any]:
    """The maps over the picture, a row for each class, as markup and as one Pillow image."""
    from PIL import Image

    rows: list[tuple[str, list[tuple[str, np.ndarray, np.ndarray]]]] = []
    own = {name: m for name, m in about.methods.items() if not name.endswith("-against")}
    for k, label in enumerate(about.labels):
        rows.append((label, [_shown(about, m, m.maps[""][k], opacity, cmap) for m in own.values()]))
    differences = [m for name, m in about.methods.items() if name not in own]
    if differences:
        label = f"{about.class_names[0]} against {about.class_names[1]}"
        rows.append((label, [_shown(about, m, m.maps[""], opacity, cmap) for m in differences]))
    parts = []
    for label, cells in rows:
        parts.append(f'<p class="jp-class">{html.escape(label)}</p><div class="jp-row">')
        parts += [_figure(label, *cell) for cell in cells]
        parts.append("</div>")
    strips = [np.concatenate([cell[1] for cell in cells], 1) for _, cells in rows if cells]
    wide = max((strip.shape[1] for strip in strips), default=1)
    strips = [
        np.pad(s, ((0, 0), (0, wide - s.shape[1]), (0, 0)), constant_values=255) for s in strips
    ]
    sheet = np.concatenate(strips) if strips else np.full((1, 1, 3), 255, np.uint8)
    return "".join(parts), Image.fromarray(sheet)


def _shown(
    about: Explanation, method: Any, heat_map: np.ndarray, opacity: float, cmap: str
) -> tuple[str, np.ndarray, np.ndarray]:
    picture = thumbnail(
        about.image, drawn(heat_map, method.style), method.style, _SIDE, opacity, cmap
    )
    return method.title, picture, heat_map


def _figure(label: str, title: str, picture: np.ndarray, heat_map: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    source = base64.b64encode(buffer.getvalue()).decode()
    values = base64.b64encode(heat_map.astype("<f4").tobytes()).decode()
    rows, columns = heat_map.shape
    alternative = html.escape(f"Map of {title} for {label}", quote=True)
    return (
        f'<figure><img alt="{alternative}" src="data:image/png;base64,{source}" '
        f'data-shape="{rows} {columns}" data-map="{values}">'
        f'<figcaption>{html.escape(title)}<span class="jp-value"></span></figcaption></figure>'
    )
