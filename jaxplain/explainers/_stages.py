"""Where a network's resolution falls: the default layers of PFV and Dense Attention."""

from __future__ import annotations

from typing import Any

from jaxplain.core import Graph, Model, UnknownLayerError


def stages(graph: Graph) -> list[Any]:
    """The values at the end of each resolution, first to last, as variables of the graph.

    These are the inputs of the max pools, average pools and strided convolutions that make the map
    smaller, and last the output of the last convolution with whatever acts on it elementwise. Of
    several at one resolution (within a strided residual block) the first is taken, the block's
    input; the image itself is none. For VGG-16 they are the five layers before the five max pools.

    Raises:
        UnknownLayerError: there is no convolution on maps (B, H, W, C).
    """
    found: dict[Any, Any] = {}
    pooled = set(graph.inputs)  # values that no convolution followed since the image or a pool
    order: dict = {}
    last = None
    for op in graph.ops:
        v, out = op.inputs[0], op.output
        convolved = op.name == "conv" and op.kind == "linear"
        order.update((u, len(order)) for u in op.outputs)
        if not convolved and all(u in pooled for u in op.inputs):
            pooled.add(out)
        if _reduces(graph, op):
            if v not in pooled:
                known = found.setdefault(size(graph, v), v)
                if order[v] < order[known]:
                    found[size(graph, v)] = v
            if not convolved:
                pooled.add(out)
        keeps = op.kind != "structural" or op.name in ("name", "concatenate")
        if keeps and size(graph, out) and out not in pooled and out not in graph.outputs:
            last = out
    if last is None or not any(op.name == "conv" for op in graph.ops):
        raise UnknownLayerError(
            "the network has no convolution on maps (B, H, W, C), height and "
            "width in the middle; name the layers (jaxplain.layers lists them)"
        )
    before = [v for s, v in found.items() if s != size(graph, last) and order[v] < order[last]]
    return sorted(before, key=order.__getitem__) + [last]


def names(graph: Graph, variables: list) -> list[str]:
    """The variables' names; a value without one is called after its place, "stage1" onwards."""
    known = set(graph.names.values())
    return [graph.name_of(v) if v in known else f"stage{i}" for i, v in enumerate(variables, 1)]


def require_maps(model: Model, name: str, method: str) -> tuple[Any, Any]:
    """The variable behind a layer's name, and how maps lie in it; an error unless it holds maps."""
    graph = model.graph
    v = graph.layer(name)
    layout = model.views.get(name) or graph.layout(v)
    if layout is None:
        raise ValueError(
            f"{method} needs layers with height and width, but {name!r} has shape "
            f"{tuple(v.aval.shape)}: name a layer before the flattening"
        )
    return v, layout


def size(graph: Graph, v: Any) -> tuple[int, int] | None:
    """Height and width of a value's maps; None where it has none, or they are one pixel."""
    layout = graph.layout(v)
    if layout is None or layout.height * layout.width == 1:
        return None
    return layout.height, layout.width


def _reduces(graph: Graph, op: Any) -> bool:
    """Whether a pool or a strided convolution makes maps smaller."""
    if size(graph, op.inputs[0]) is None:
        return False
    params = op.equations[-1].params
    if op.kind == "linear" and op.name == "conv":
        return max(params["window_strides"]) > 1
    if op.kind != "max_pool" and op.name != "avg_pool":
        return False
    # A sum or maximum over all positions has no window: it ends the last resolution, or gates one.
    window, strides = params.get("window_dimensions"), params.get("window_strides", ())
    return window is not None and max(strides) > 1
