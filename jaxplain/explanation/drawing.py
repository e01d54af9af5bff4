"""Figures of explanations: a row for each class, and methods that have rows of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxplain.explanation.result import Explanation, MethodMaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Title of a row -> title of a picture -> the picture.
Rows = dict[str, dict[str, np.ndarray]]

#: Largest side at which a photograph is drawn; what the network sees does not depend on it.
_LARGEST = 448


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """A photograph as it is drawn, with its aspect."""
    from PIL import Image

    image = Image.fromarray(photo)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def figure(
    explanations: Sequence[Explanation],
    *,
    cmap: str | None = None,
    colour_bar: bool = False,
    boxes: float | None = None,
    max_columns: int = 7,
    cell: float = 1.75,
) -> Figure:
    """One figure of several pictures; for the arguments see `Explanation.figure`.

    Raises:
        ValueError: there is no map to draw.
    """
    from jaxplain import viz

    images: dict[str, np.ndarray] = {}
    rows: Rows = {}
    for one in explanations:
        shown = thumbnail(one.image)
        for label, row in rows_of(one, shown, cmap, boxes).items():
            title = f"{one.name}: {label}" if len(explanations) > 1 else label
            images[title], rows[title] = shown, row
    if not rows:
        raise ValueError("none of the methods can explain this network there")
    bars = _bars(explanations, cmap) if colour_bar else ()
    return viz.panel(images, rows, max_columns=max_columns, cell=cell, colour_bars=bars)


def _bars(explanations: Sequence[Explanation], cmap: str | None) -> list[tuple[str, str | None]]:
    """The styles that are drawn, each with its colour map."""
    methods = [method for one in explanations for method in one.methods.values()]
    styles = dict.fromkeys(method.style for method in methods)
    return [(style, cmap if style == "heat" else None) for style in styles]


def rows_of(
    explanation: Explanation,
    shown: np.ndarray,
    cmap: str | None = None,
    boxes: float | None = None,
) -> Rows:
    """The pictures of one explanation, over the picture as it is drawn."""
    rows: Rows = {label: {} for label in explanation.labels}
    for method in explanation.methods.values():
        if method.name in ROWS:
            found = ROWS[method.name](explanation, shown, method, cmap)
        else:
            found = _rows(explanation, shown, method, cmap, boxes)
        for label, row in found.items():
            rows.setdefault(label, {}).update(row)
    return {label: row for label, row in rows.items() if row}


def _rows(
    explanation: Explanation,
    shown: np.ndarray,
    method: MethodMaps,
    cmap: str | None,
    boxes: float | None,
) -> Rows:
    """Several layers stand side by side, in a row of the method's own."""
    rows: Rows = {}
    for part, maps in method.maps.items():
        for label, one in zip(explanation.labels, maps, strict=True):
            row = rows.setdefault(f"{method.title}: {label}" if part else label, {})
            row[(part or method.title) + of_no_place(one)] = _picture(
                shown, one, method.style, cmap, boxes
            )
    return rows


def of_no_place(heat_map: np.ndarray) -> str:
    """What is said behind the title of a map that marks no place.

    Nothing arrives where d-WTA's process ends above the layer; gradients right below a global pool
    are the same everywhere.
    """
    if not heat_map.any():
        return " (empty)"
    flat = heat_map.max() - heat_map.min() <= 1e-5 * abs(heat_map).max()
    return " (the same everywhere)" if flat else ""


def _picture(
    shown: np.ndarray, heat_map: np.ndarray, style: str, cmap: str | None, boxes: float | None
) -> np.ndarray:
    from jaxplain import viz

    picture = viz.overlay(shown, heat_map, style, cmap=cmap if style == "heat" else None)
    return picture if boxes is None else _boxed(picture, heat_map, boxes)


def _boxed(picture: np.ndarray, heat_map: np.ndarray, alpha: float) -> np.ndarray:
    """The picture with the box of the map's dominant object (Zhang et al. 2018, Fig. 8)."""
    from jaxplain import postprocess, viz
    from jaxplain.evaluation.localisation import threshold_boxes

    large = postprocess.positive(postprocess.resize(heat_map, picture.shape[:2], "bicubic"))
    return viz.draw_box(picture, np.asarray(threshold_boxes(large, np.array([alpha])))[0])


def _flow(explanation: Explanation, shown: np.ndarray, method: MethodMaps, cmap: Any) -> Rows:
    from jaxplain import viz

    first_to_last = dict(reversed(list(method.maps.items())))
    return {
        f"{method.title}: {label}": viz.flow_row(
            shown, {name: maps[k] for name, maps in first_to_last.items()}, cmap=cmap
        )
        for k, label in enumerate(explanation.labels)
    }


def _attention(explanation: Explanation, shown: np.ndarray, method: MethodMaps, cmap: Any) -> Rows:
    from jaxplain import viz

    kinds: dict[str, dict[str, np.ndarray]] = {"layers": {}, "cumulative": {}}
    for part, one in method.maps.items():
        kind, _, name = part.partition("/")
        kinds[kind][name] = one
    rows = viz.attention_rows(shown, kinds["layers"], kinds["cumulative"], cmap=cmap)
    return {f"{method.title}, {label}": row for label, row in rows.items()}


def _features(explanation: Explanation, shown: np.ndarray, method: MethodMaps, cmap: Any) -> Rows:
    from jaxplain import viz

    return {
        method.title: {
            "principal features": viz.feature_overlay(shown, method.maps["colours"]),
            "activation weights": viz.overlay(shown, method.maps["weights"], cmap=cmap),
        }
    }


#: How the methods are drawn that the catalogue gives rows of their own.
ROWS: Mapping[str, Callable[[Explanation, np.ndarray, MethodMaps, str | None], Rows]] = {
    "naflow": _flow,
    "dense-attention": _attention,
    "pfv": _features,
}
