"""Which tokens the scores read: a class token, a distillation token too, a mean of patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxplain.core import _compat
from jaxplain.core.attention import follow
from jaxplain.core.intervals import literal

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph

_EACH = ("normalise", "scale", "bias", "activation", "add", "gate")


class Reads(NamedTuple):
    """The numbers of tokens that the scores read one by one, and of those read together."""

    single: frozenset[int]
    pooled: frozenset[int]


def read_tokens(graph: Graph, value: Any, axis: int, end: frozenset = frozenset()) -> Reads | None:
    """How the tokens along an axis of a value are read; None where that cannot be told.

    ``end`` are operations that are not looked at.
    """
    size = value.aval.shape[axis]
    places: dict[Any, tuple[int, np.ndarray]] = {value: (axis, np.arange(size))}
    single: set[int] = set()
    pooled: set[int] = set()
    for op in graph.ops:
        own = [v for v in op.inputs if v in places]
        if not own or op in end:
            continue
        if op.kind in _EACH and op.name != "matmul":
            kept = [places[v] for v in own if _same_rank(v, op.output)]
            kept = [p for p in kept if op.output.aval.shape[p[0]] == len(p[1])]
            if not kept or len(kept) < len(own) or any(k[0] != kept[0][0] for k in kept):
                return None
            places[op.output] = kept[0]
            continue
        for v in own:
            found = _step(graph, op.equations, v, places[v], single, pooled)
            if found is None:
                return None
            places.update(found)
    return Reads(frozenset(single), frozenset(pooled))


def _same_rank(v: Any, out: Any) -> bool:
    return len(v.aval.shape) == len(out.aval.shape)


def _step(graph: Graph, eqns: tuple, v: Any, place: tuple, single: set, pooled: set) -> dict | None:
    """Where tokens lie in what an operation makes of them; None where that cannot be told."""
    if len(eqns) != 1:
        return None
    (eqn,), (axis, ids) = eqns, place
    name, out = eqn.primitive.name, eqn.outvars[0]
    kept = _picked(graph, eqn, v, axis, ids)
    if kept is not None:
        if len(kept[1]) == 1 and len(ids) > 1:
            single.update(map(int, kept[1]))
            return {}
        return {out: kept}
    if name == "concatenate":
        if eqn.params["dimension"] != axis:
            return {out: place}
        sizes = [u.aval.shape[axis] for u in eqn.invars]
        if sum(u is v for u in eqn.invars) != 1 or any(sizes[i] == 0 for i in range(len(sizes))):
            return None
        i = next(i for i, u in enumerate(eqn.invars) if u is v)
        none = [np.full(n, -1) for n in sizes]
        return {out: (axis, np.concatenate([*none[:i], ids, *none[i + 1 :]]))}
    found = follow(eqn, v, axis)
    if found is not None:
        return {out: (found, ids)}
    summed = name.startswith("reduce_") and axis in eqn.params.get("axes", ())
    if summed or name in ("dot_general", "reshape"):  # a mean, a pooling, or flattened to features
        pooled.update(int(i) for i in ids if i >= 0)
        return {}
    return None


def _picked(graph: Graph, eqn: Any, v: Any, axis: int, ids: np.ndarray) -> Any:
    """The place and the numbers of the tokens that an equation picks, None where it picks none."""
    name, params, shape = eqn.primitive.name, eqn.params, v.aval.shape
    if name == "slice":
        steps = params["strides"] or (1,) * len(shape)
        return axis, ids[
            params["start_indices"][axis] : params["limit_indices"][axis] : steps[axis]
        ]
    if name == "split" and len(eqn.outvars) == 1:
        return axis, ids
    number = _number(graph, eqn.invars[1 + axis]) if name == "dynamic_slice" else None
    if number is not None:
        start = min(max(int(number), 0), len(ids) - params["slice_sizes"][axis])
        return axis, ids[start : start + params["slice_sizes"][axis]]
    if name == "gather" and eqn.invars[0] is v:
        numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
        if numbers.start_index_map == (axis,) and sizes[axis] == 1:
            start = _number(graph, eqn.invars[1])
            return None if start is None else (axis, ids[[int(start) % len(ids)]])
    return None


def _number(graph: Graph, atom: Any) -> float | None:
    known = literal(atom) if isinstance(atom, _compat.Literal) else graph.facts.get(atom)
    return known.static if known else None
