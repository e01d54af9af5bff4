"""Where a network's resolution falls: the default layers of PFV and Dense Attention."""

from __future__ import annotations

from typing import Any

from jaxplain.core import Graph, UnknownLayerError

_NHWC = (0, 3, 1, 2)  # batch, channels, height, width of a convolution's dimension numbers


def stages(graph: Graph) -> list[Any]:
    """The values at the end of each resolution, first to last, as variables of the graph.

    These are the inputs of the max pools, average pools and strided convolutions that make the map
    smaller, and last the output of the last convolution with whatever acts on it elementwise. Of
    several at one resolution (within a strided residual block) the first is taken, the block's
    input; the image itself is none. For VGG-16 they are the five layers before the five max pools.

    Raises:
        UnknownLayerError: there is no convolution on maps (B, H, W, C).
    """
    found: dict[tuple[int, ...], Any] = {}
    pooled = set(graph.inputs)  # values that no convolution followed since the image or a pool
    order: dict = {}
    last = None
    for op in graph.ops:
        v, out = op.inputs[0], op.output
        convolved = op.name == "conv" and op.kind == "linear"
        order.update((u, len(order)) for u in op.outputs)
        if not convolved and all(u in pooled for u in op.inputs):
            pooled.add(out)
        if _reduces(op):
            if v not in pooled:
                known = found.setdefault(tuple(v.aval.shape[1:3]), v)
                if order[v] < order[known]:
                    found[tuple(v.aval.shape[1:3])] = v
            if not convolved:
                pooled.add(out)
        elif convolved and not is_nhwc(op):
            pooled.add(out)
        keeps = op.kind != "structural" or op.name in ("name", "concatenate")
        if keeps and _is_maps(out) and out not in pooled and out not in graph.outputs:
            last = out
    if last is None or not any(op.name == "conv" for op in graph.ops):
        raise UnknownLayerError(
            "the network has no convolution on maps (B, H, W, C), height and "
            "width in the middle; name the layers (jaxplain.layers lists them)"
        )
    size = tuple(last.aval.shape[1:3])
    before = [v for shape, v in found.items() if shape != size and order[v] < order[last]]
    return sorted(before, key=order.__getitem__) + [last]


def names(graph: Graph, variables: list) -> list[str]:
    """The variables' names; a value without one is called after its place, "stage1" onwards."""
    known = {v for v in map(graph.layer, (row.name for row in graph.layers))}
    return [graph.name_of(v) if v in known else f"stage{i}" for i, v in enumerate(variables, 1)]


def require_maps(graph: Graph, name: str, method: str) -> Any:
    """The variable behind a layer's name; an error unless it is a batch of maps."""
    v = graph.layer(name)
    if v.aval.ndim != 4:
        raise ValueError(
            f"{method} needs layers with height and width, but {name!r} has shape "
            f"{tuple(v.aval.shape)}: name a layer before the flattening"
        )
    return v


def _is_maps(v: Any) -> bool:
    shape = v.aval.shape
    return len(shape) == 4 and shape[1] * shape[2] > 1


def is_nhwc(op: Any) -> bool:
    """Whether a convolution is given maps (B, H, W, C)."""
    numbers = op.equations[-1].params.get("dimension_numbers")
    return getattr(numbers, "lhs_spec", None) == _NHWC


def _reduces(op: Any) -> bool:
    """Whether a pool or a strided convolution makes maps (B, H, W, C) smaller."""
    v = op.inputs[0]
    if not _is_maps(v):
        return False
    params = op.equations[-1].params
    if op.kind == "linear" and op.name == "conv":
        return is_nhwc(op) and max(params["window_strides"]) > 1
    if op.kind != "max_pool" and op.name != "avg_pool":
        return False
    # A sum or maximum over all positions has no window: it ends the last resolution, or gates one.
    window, strides = params.get("window_dimensions"), params.get("window_strides", ())
    return window is not None and window[0] == window[3] == 1 and max(strides) > 1
