"""Where the images of a batch lie in a value: in front, behind, or among windows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.core.graph import Graph


def image_axis(graph: Graph, v: Any) -> tuple[int, list[int], int] | None:
    """The axis that the images lie in, the sizes of its parts, and which of these they are.

    None where it is not known.
    """
    if graph.inputs[0].aval.shape[0] == 1:
        return 0, [1, v.aval.shape[0]] if v.aval.shape else [], 0
    # Rules see the operations of a network with its scans, or of the same one unrolled.
    known = (g.places.axes[v] for g in (graph, graph.unrolled) if v in g.places.axes)
    for i, axis in enumerate(next(known, ())):
        kinds = [f.kind for f in axis.factors]
        if "batch" in kinds:
            return i, [f.size for f in axis.factors], kinds.index("batch")
    return None


def by_image(a: jax.Array, place: tuple[int, list[int], int]) -> jax.Array:
    """A value as ``(B, n)``, with its images at a place that :func:`image_axis` tells."""
    axis, sizes, part = place
    parts = a.reshape(*a.shape[:axis], *sizes, *a.shape[axis + 1 :])
    parts = jnp.moveaxis(parts, axis + part, 0)
    return parts.reshape(len(parts), -1)
