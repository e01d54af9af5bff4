"""The table of a network's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxplain.core.graph import Graph


class Layer(NamedTuple):
    """A value in the network that has a name, as :func:`jaxplain.layers` tells of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str
    kind: str
    default: tuple[str, ...]
    also: tuple[str, ...]
    source: str


def layer_rows(graph: Graph, defaults: Mapping[str, str], all: bool) -> list[Layer]:
    """The named values in order of computation, each under its first name.

    ``defaults`` are kinds of layer, and the layers that they are. False for ``all`` leaves out what
    few users look for.
    """
    marks: dict[Any, tuple[str, ...]] = {}
    for kind, name in defaults.items():
        v = graph.layer(name)
        marks[v] = (*marks.get(v, ()), kind)
    shown = set(graph.names.values()) if all else {graph.inputs[0], *marks, *_with_a_place(graph)}
    grouped: dict[Any, list[str]] = {}
    for name, v in graph.names.items():
        grouped.setdefault(v, []).append(name)
    rows = []
    for v in [*graph.inputs[:1], *(op.output for op in graph.ops)]:
        if v in grouped and v in shown:
            first, *also = grouped[v]
            kind, source = _kind_and_source(graph, v)
            shape, dtype = tuple(v.aval.shape), v.aval.dtype.name
            meaning, default = graph.places.meaning(v), marks.get(v, ())
            rows.append(Layer(first, shape, dtype, meaning, kind, default, tuple(also), source))
    return rows


def _with_a_place(graph: Graph) -> set:
    """The modules and tags whose values have more than one place in the image, or may have.

    Where nothing that has a name of its own has a place: whatever has one.
    """
    layouts = graph.places.layouts
    placed = {v for v, layout in layouts.items() if layout.height * layout.width > 1}
    first: dict[Any, str] = {}
    for name, v in graph.names.items():
        if v in placed or graph.lacks_meaning(v):
            first.setdefault(v, name)
    own = {v for v, name in first.items() if name != "input" and not graph.is_counted(name)}
    return own or set(first)


def _kind_and_source(graph: Graph, v: Any) -> tuple[str, str]:
    op = graph.producer.get(v)
    if op is None:
        return "input", ""
    tagged = graph.producer.get(op.inputs[0], op) if op.name == "name" else op
    return tagged.name, op.source
