"""Which operations a value is computed by, and whether a gradient gets from it to another."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxplain.core import _compat
from jaxplain.core.operations import Operation
from jaxplain.core.primitives import WITHOUT_GRADIENT

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph


def needed_for(graph: Graph, outputs: Sequence[Any], given: Collection[Any]) -> set[Operation]:
    """The operations that the outputs are computed by, where ``given`` values are known."""
    wanted = {v for v in outputs if not isinstance(v, _compat.Literal)} - set(given)
    needed = set()
    for op in reversed(graph.ops):
        if any(v in wanted for v in op.outputs):
            needed.add(op)
            wanted.update(v for v in op.inputs if v not in given)
    return needed


def first_cut(graph: Graph, start: Any, end: Any, assigned: dict) -> Operation | None:
    """The first operation that has no gradient, if such ones cut ``start`` off from ``end``."""
    if isinstance(end, _compat.Literal):
        return None
    reached, passed, cut = {start}, {start}, None
    needed = needed_for(graph, [end], ())
    for op in graph.ops:
        if op not in needed or not reached.intersection(op.inputs):
            continue
        reached.update(op.outputs)
        if not passed.intersection(op.inputs):
            continue
        if op in assigned:
            passed.update(filter(_is_inexact, op.outputs))
        for eqn in () if op in assigned else op.equations:
            if eqn.primitive.name not in WITHOUT_GRADIENT and any(
                not isinstance(v, _compat.Literal) and v in passed for v in eqn.invars
            ):
                passed.update(filter(_is_inexact, eqn.outvars))
        if cut is None and not passed.intersection(op.outputs):
            cut = op
    return None if end in passed or end not in reached else cut


def _is_inexact(v: Any) -> bool:
    return jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact)
