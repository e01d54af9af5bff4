"""Pictures of what `jaxplain explain` finds: rows of classes, and methods with their own rows."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxplain.cli.common import CliError, step
from jaxplain.core import UnknownLayerError, UnsupportedOperationError
from jaxplain.explainers.catalogue import CATALOGUE

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxplain.cli.method_options import Choice

#: Title of a row -> title of a picture -> the picture.
Rows = dict[str, dict[str, "np.ndarray"]]

#: Largest side at which a photograph is drawn; what the network sees does not depend on it.
_LARGEST = 448


@dataclasses.dataclass(eq=False)
class View:
    """A picture that is explained, and what was drawn of it.

    Attributes:
        name: of the picture; "" where it is the only one.
        shown: the picture as it is drawn.
        x: as the network sees it, ``(1, H, W, 3)``.
        fn: images to the scores that are explained: the network, or a similarity.
        targets: the scores that are explained.
        labels: of the rows of these scores.
        reference: the embedding that the picture is compared with, if it is.
        rows: what was drawn.
    """

    name: str
    shown: np.ndarray
    x: jax.Array
    fn: Callable
    targets: Sequence[int]
    labels: Sequence[str]
    reference: jax.Array | None = None
    rows: Rows = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows |= {label: {} for label in self.labels}

    def add(self, rows: Rows) -> None:
        """Puts pictures behind those that are in their rows already."""
        for label, row in rows.items():
            self.rows.setdefault(label, {}).update(row)


def names(paths: Iterable[Path]) -> dict[Path, str]:
    """What files are called: by their names, or with their folders where two have one name."""
    short: dict[Path, str] = {path: path.name for path in paths}
    counts = Counter(short.values())
    return {path: name if counts[name] == 1 else str(path) for path, name in short.items()}


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """A photograph as it is drawn, with its aspect."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(photo)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def draw(
    choices: Mapping[str, Choice],
    model: Any,
    views: Sequence[View],
    *,
    every: bool,
    fit: Callable[[Choice], Any],
    boxes: float | None = None,
) -> None:
    """Draws the maps of all methods into the views.

    Args:
        choices: the methods.
        model: the network, whose config knows the default layers.
        views: the pictures.
        every: whether a method that the network does not allow is left out, or an error.
        fit: makes what `fitted_cam` needs.
        boxes: draw the box around the pixels above so many means of each map.
    """
    for count, (name, choice) in enumerate(choices.items(), 1):
        method = CATALOGUE[name]
        with step(f"[{count}/{len(choices)}] {choice.title}"):
            try:
                if method.rows:
                    found = ROWS[name](model, views, choice)
                else:
                    more = {"fit": fit(choice)} if method.needs == "fit" else {}
                    found = [_maps(model, view, choice, boxes, more) for view in views]
            except UnknownLayerError as error:
                raise CliError(str(error)) from None
            # What a network does not allow, a method says in these words; OSError: of --fit.
            except (UnsupportedOperationError, ValueError, OSError) as error:
                if not every:
                    raise CliError(f"{choice.title}: {error}") from None
                print(f"{choice.title} left out: {' '.join(str(error).split())}", file=sys.stderr)
                continue
            for view, rows in zip(views, found, strict=True):
                view.add(rows)


def panel_rows(views: Sequence[View]) -> tuple[dict[str, np.ndarray], Rows]:
    """The picture that each row starts with, and the rows, for `jaxplain.viz.panel`."""
    images: dict[str, np.ndarray] = {}
    rows: Rows = {}
    for view in views:
        for label, row in view.rows.items():
            if row:
                title = f"{view.name}: {label}" if view.name else label
                images[title], rows[title] = view.shown, row
    return images, rows


def _maps(
    model: Any, view: View, choice: Choice, boxes: float | None, more: Mapping[str, Any]
) -> Rows:
    """One map per target, and per layer; one forward pass for all of them.

    Several layers stand side by side, in a row of the method's own.
    """
    import jax
    import numpy as np

    explain = choice.explainer(model.config, **more)
    maps = explain(view.fn, view.x, jax.numpy.asarray([view.targets]))
    layers = choice.layer if isinstance(choice.layer, tuple) else ()
    titled = {layer: maps[layer] for layer in layers} or {choice.title: maps}
    rows: Rows = {}
    for title, at_layer in titled.items():
        for label, one in zip(view.labels, np.asarray(at_layer[0], np.float32), strict=True):
            row = rows.setdefault(f"{choice.title}: {label}" if layers else label, {})
            row[title + _of_no_place(one)] = _picture(view.shown, one, choice, boxes)
    return rows


def _of_no_place(heat_map: np.ndarray) -> str:
    """What is said behind the title of a map that marks no place.

    Nothing arrives where d-WTA's process ends above the layer; gradients right below a global pool
    are the same everywhere.
    """
    if not heat_map.any():
        return " (empty)"
    flat = heat_map.max() - heat_map.min() <= 1e-5 * abs(heat_map).max()
    return " (the same everywhere)" if flat else ""


def _picture(
    shown: np.ndarray, heat_map: np.ndarray, choice: Choice, boxes: float | None
) -> np.ndarray:
    from jaxplain import viz

    picture = viz.overlay(shown, heat_map, CATALOGUE[choice.name].style)
    return picture if boxes is None else _boxed(picture, heat_map, boxes)


def _boxed(picture: np.ndarray, heat_map: np.ndarray, alpha: float) -> np.ndarray:
    """The picture with the box of the map's dominant object (Zhang et al. 2018, Fig. 8)."""
    import numpy as np

    from jaxplain import postprocess, viz
    from jaxplain.evaluation.localisation import threshold_boxes

    large = postprocess.positive(postprocess.resize(heat_map, picture.shape[:2], "bicubic"))
    return viz.draw_box(picture, np.asarray(threshold_boxes(large, np.array([alpha])))[0])


def _several(layer: str | tuple[str, ...] | None) -> list[str] | None:
    """The layers as a list, so that a dict comes back."""
    if layer is None:
        return None
    return [layer] if isinstance(layer, str) else list(layer)


def _flow(model: Any, views: Sequence[View], choice: Choice) -> list[Rows]:
    return [_flow_rows(model, view, choice) for view in views]


def _flow_rows(model: Any, view: View, choice: Choice) -> Rows:
    import jax
    import numpy as np

    import jaxplain
    from jaxplain import viz
    from jaxplain.explainers.naflow import all_layers

    solver = jaxplain.LeastSquares(tolerance=1e-2, iterations=200)
    options = choice.arguments(None, solver=solver)
    solver = options["solver"]
    if choice.layer == "all":
        options["layer"] = all_layers(model, view.x, options.get("last"))
    else:
        options["layer"] = _several(choice.layer)
    if view.reference is None:
        targets = jax.numpy.asarray([view.targets])
        flow = jaxplain.naflow(view.fn, view.x, targets, details=True, **options)
    else:
        if "class_chunk" in options:
            raise ValueError("with --reference there are no classes, and class_chunk has no effect")
        flow = jaxplain.naflow_similarity(model, view.x, view.reference, details=True, **options)
    for name, residual in flow.residuals.items():
        if residual[0] > solver.tolerance:
            print(
                f"NAFlow: at {name} a residual of {float(residual[0]):.1e} is left after "
                f"{solver.iterations} iterations",
                file=sys.stderr,
            )
    maps = {name: np.asarray(m[0], np.float32) for name, m in flow.maps.items()}
    if isinstance(choice.layer, tuple):  # in the order asked for, as other methods' layers
        maps = {name: maps[name] for name in reversed(choice.layer)}
    if view.reference is not None:
        maps = {name: m[None] for name, m in maps.items()}
    return {
        f"{choice.title}: {label}": viz.flow_row(view.shown, {n: m[k] for n, m in maps.items()})
        for k, label in enumerate(view.labels)
    }


def _attention(model: Any, views: Sequence[View], choice: Choice) -> list[Rows]:
    import numpy as np

    import jaxplain
    from jaxplain import viz

    found = []
    for view in views:
        maps = jaxplain.dense_attention(
            model, view.x, layer=_several(choice.layer), **choice.arguments(None)
        )
        parts = ({n: np.asarray(m[0], np.float32) for n, m in part.items()} for part in maps)
        rows = viz.attention_rows(view.shown, *parts)
        found.append({f"{choice.title}, {label}": row for label, row in rows.items()})
    return found


def _features(model: Any, views: Sequence[View], choice: Choice) -> list[Rows]:
    """All pictures in one batch, so that a colour means the same in each."""
    import jax.numpy as jnp
    import numpy as np

    import jaxplain
    from jaxplain import viz

    x = jnp.concatenate([view.x for view in views])
    found = jaxplain.pfv(model, x, layer=choice.one_layer, **choice.arguments(None))
    colours, weights = (np.asarray(v, np.float32) for v in (found.colours, found.weights))
    return [
        {
            choice.title: {
                "principal features": viz.feature_overlay(view.shown, colours[i]),
                "activation weights": viz.overlay(view.shown, weights[i]),
            }
        }
        for i, view in enumerate(views)
    ]


#: How `jaxplain explain` draws the methods that the catalogue gives rows of their own: network,
#: views and choice to the rows of each view.
ROWS: Mapping[str, Callable[[Any, Sequence[View], Choice], list[Rows]]] = {
    "naflow": _flow,
    "dense-attention": _attention,
    "pfv": _features,
}
