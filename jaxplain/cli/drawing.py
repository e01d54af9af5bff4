"""Pictures of what `jaxplain explain` finds: the methods with rows of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from jaxplain.cli.method_options import Choice


#: Title of a row -> title of a picture -> the picture.
Rows = dict[str, dict[str, "np.ndarray"]]

#: Largest side at which a photograph is drawn; what the network sees does not depend on it.
_LARGEST = 448


def thumbnail(photo: np.ndarray) -> np.ndarray:
    """A photograph as it is drawn, with its aspect."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(photo)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _several(layer: str | tuple[str, ...] | None) -> list[str] | None:
    """The layers as a list, so that a dict comes back."""
    if layer is None:
        return None
    return [layer] if isinstance(layer, str) else list(layer)


def _flow(model, x, targets, labels, drawn, choice: Choice) -> Rows:
    import jax
    import numpy as np

    import jaxplain
    from jaxplain import viz

    # Undamped, the feature maps of trained networks grow a thousandfold from stage to stage.
    solver = jaxplain.LeastSquares(tolerance=1e-2, iterations=200, damping=0.3)
    options = choice.arguments(None, solver=solver)
    flow = jaxplain.naflow(
        model,
        x,
        jax.numpy.asarray([targets]),
        layer=_several(choice.layer),
        details=True,
        **options,
    )
    solver = options["solver"]
    for name, residual in flow.residuals.items():
        if residual[0] > solver.tolerance:
            print(
                f"NAFlow: at {name} a residual of {float(residual[0]):.1e} is left after "
                f"{solver.iterations} iterations",
                file=sys.stderr,
            )
    return {
        f"{choice.title}: {label}": viz.flow_row(
            drawn, {name: np.asarray(m[0, k], np.float32) for name, m in flow.maps.items()}
        )
        for k, label in enumerate(labels)
    }


def _attention(model, x, targets, labels, drawn, choice: Choice) -> Rows:
    import numpy as np

    import jaxplain
    from jaxplain import viz

    parts = (
        {n: np.asarray(m[0], np.float32) for n, m in maps.items()}
        for maps in jaxplain.dense_attention(
            model, x, layer=_several(choice.layer), **choice.arguments(None)
        )
    )
    rows = viz.attention_rows(drawn, *parts)
    return {f"{choice.title}, {label}": row for label, row in rows.items()}


def _features(model, x, targets, labels, drawn, choice: Choice) -> Rows:
    import numpy as np

    import jaxplain
    from jaxplain import viz

    found = jaxplain.pfv(model, x, layer=choice.layer, **choice.arguments(None))
    return {
        choice.title: {
            "principal features": viz.feature_overlay(
                drawn, np.asarray(found.colours[0], np.float32)
            ),
            "activation weights": viz.overlay(drawn, np.asarray(found.weights[0], np.float32)),
        }
    }


#: How `jaxplain explain` draws the methods that the catalogue gives rows of their own.
ROWS: Mapping[str, Callable[..., Rows]] = {
    "naflow": _flow,
    "dense-attention": _attention,
    "pfv": _features,
}
