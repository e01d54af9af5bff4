"""CAM's demand: after a layer, only a global average pool and one linear classifier."""

from __future__ import annotations

import math
from typing import NoReturn

from jaxplain.core import Model, Operation, UnsuitableNetworkError
from jaxplain.core.axes import Axes
from jaxplain.core.primitives import is_identity
from jaxplain.core.spatial import Places


def require_global_pool(model: Model, layer: str, method: str) -> None:
    """An error unless a global average pool and one classifier are all that follows the layer.

    Scales, biases and changes of shape may stand between them. Scales before the pool must not vary
    over space: only then the gradient at the layer is the classifier's weight divided by the number
    of positions. Tokens are space; others beside them must have been dropped before the pool.
    """
    graph = model.graph
    source = graph.layer(layer)
    places = _places(model, layer, method)
    if places.layouts.get(source) is None:
        _refuse(
            method,
            layer,
            f"the layer, of shape {tuple(source.aval.shape)}, has no height and width",
        )
    axes = places.axes
    space = _space(axes[source], method, layer, "the layer")  # of positions; () once pooled
    classifiers = 0
    reached = graph.downstream(frozenset([source]))
    for op in (op for op in graph.ops if op in reached):
        if len(op.inputs) > 1 or op.kind not in ("structural", "scale", "bias", "linear"):
            _refuse(method, layer, f"{op.name!r} ({op.kind}) at {op.place} lies after it")
        if op.kind == "structural":
            what = f"{op.name!r} at {op.place}"
            before, space = space, _space(axes[op.output], method, layer, what)
            if before and not _keeps_all(places, op):
                _refuse(method, layer, f"{what} comes before the pool")
        elif op.kind == "scale":
            if space and any(_varies(v, space, graph) for v in op.constants):
                _refuse(method, layer, f"the scale at {op.place} varies over space")
        elif op.weighted:
            classifiers += 1
            if space:
                _refuse(method, layer, f"the {op.name} at {op.place} comes before the pool")
            if classifiers > 1:
                _refuse(
                    method, layer, f"the {op.name} at {op.place} is a second layer after the pool"
                )
        elif op.kind == "linear":
            if any(a.spatial and a.before + a.after for v in op.inputs for a in axes[v]):
                _refuse(
                    method,
                    layer,
                    "tokens without a place in the image are pooled with those of the patches",
                )
            space = _pool(op, space, method, layer)
    if space or not classifiers:
        _refuse(
            method, layer, "it has no such pool" if space else "no dense layer follows the pool"
        )


def _refuse(method: str, layer: str, why: str) -> NoReturn:
    raise UnsuitableNetworkError(
        f"{method} needs a network that ends in a global average pool and one dense layer after "
        f"{layer!r}, but {why}; use grad_cam, which works for any network."
    )


def _places(model: Model, layer: str, method: str) -> Places:
    """Where values have a place, after the word of the user on the layer."""
    view = model.views.get(layer)
    if view is None:
        return model.graph.places
    if view.axes is None:
        raise ValueError(
            f"{method} must know which axis of {layer!r} the positions lie along, which the "
            "function tokens does not tell; it may leave out tokens in front of and behind the "
            "positions and bring these to (h, w) row by row, as "
            "lambda v: v[:, 1:].reshape(len(v), h, w, -1) does"
        )
    return Places(model.graph, {model.graph.layer(layer): view.axes})


def _space(axes: Axes, method: str, layer: str, what: str) -> tuple[int, ...]:
    """The axes of a value, which ``what`` makes, along which positions lie."""
    places = {"height", "width"}
    for axis in axes:
        if (axis.kinds & places and not axis.kinds <= places) or "unknown" in axis.kinds:
            _refuse(
                method, layer, f"{what}, which mixes positions with others, comes before the pool"
            )
    return tuple(i for i, axis in enumerate(axes) if axis.kinds & places)


def _keeps_all(places: Places, op: Operation) -> bool:
    """Whether a change of shape keeps every position, once; it may drop other tokens."""
    old, new = places.layouts.get(op.inputs[0]), places.layouts.get(op.output)
    if old is None or new is None:
        return False
    same = (old.height, old.width, old.channels) == (new.height, new.width, new.channels)
    sizes = op.inputs[0].aval.size, op.output.aval.size
    return same and (sizes[0] == sizes[1] or (new.prefix < old.prefix and sizes[0] > sizes[1]))


def _pool(op: Operation, space: tuple[int, ...], method: str, layer: str) -> tuple[int, ...]:
    shape, eqn = op.inputs[0].aval.shape, op.equations[-1]
    if "axes" in eqn.params:
        pooled = set(eqn.params["axes"])
    else:
        window = eqn.params["window_dimensions"]
        pooled = {axis for axis, n in enumerate(window) if n > 1}
        area = math.prod(shape[axis] for axis in pooled)
        partial = any(window[axis] != shape[axis] for axis in pooled)
        if partial or op.output.aval.size * area != math.prod(shape):
            _refuse(method, layer, f"the pool at {op.place} is not global")
    pooled = {axis for axis in pooled if shape[axis] > 1}
    if pooled != set(space):
        _refuse(method, layer, f"the sum at {op.place} is not over all of space and nothing else")
    return ()


def _varies(v, axes, graph) -> bool:
    """Whether a value that does not depend on the image varies along any of these axes."""
    axes = tuple(axis for axis in axes if v.aval.shape and v.aval.shape[axis] > 1)
    if not axes:
        return False
    eqn = next((e for e in graph.constant_equations if v in e.outvars), None)
    if eqn is None:
        return True
    if is_identity(eqn):
        return _varies(eqn.invars[0], axes, graph)
    if eqn.primitive.name != "broadcast_in_dim":
        return True
    dims = eqn.params["broadcast_dimensions"]
    kept = tuple(dims.index(axis) for axis in axes if axis in dims)
    return bool(kept) and _varies(eqn.invars[0], kept, graph)
