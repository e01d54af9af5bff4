"""Attention in a traced network, whatever its spelling: its weights, and the tokens it mixes.

Attention is a softmax over keys whose values multiply something and are added up over the keys:
``softmax(q k / s + bias) v``. It is found from that product backwards: through moves (reshapes,
transposes, casts), masks and mixings of heads to the softmax, and from there to the product of
queries and keys. Of scans and rematerialised blocks the graph has the operations themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxplain.core import _compat
from jaxplain.core.axes import HIDDEN, SPACE, Axes, Axis, Factor
from jaxplain.core.primitives import of_class

if TYPE_CHECKING:
    from jaxplain.core.graph import Graph
    from jaxplain.core.operations import Operation


@dataclasses.dataclass(frozen=True)
class WeightsView:
    """How attention weights lie in a value: :meth:`maps` gives ``(B, heads, queries, keys)``.

    Of attention within windows the first axis is that of the windows, ``B * windows``, those of an
    image together and in row order.
    """

    shape: tuple[int, int, int, int]
    _sizes: tuple[int, ...]
    _order: tuple[int, ...]

    def maps(self, value: jax.Array) -> jax.Array:
        """The weights ``(B, heads, queries, keys)`` in a value."""
        return value.reshape(self._sizes).transpose(self._order).reshape(self.shape)

    def edit(self, value: jax.Array, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The value with ``function(weights)`` in place of its weights."""
        weights = function(self.maps(value)).astype(value.dtype)
        inverse = sorted(range(len(self._order)), key=self._order.__getitem__)
        parts = weights.reshape([self._sizes[i] for i in self._order])
        return parts.transpose(inverse).reshape(value.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """One attention.

    Attributes:
        weights: the value behind the softmax (and behind a mask that follows it).
        product: the operation that multiplies them with the values and adds up over the keys.
        view: how the weights lie; None where that cannot be known.
        queries, keys: what the two axes of the weights mean.
        query: the axis of the product's output along which the queries lie.
        within: the scores, the weights, and what is made of them before the product.
    """

    weights: Any
    product: Operation
    view: WeightsView | None
    queries: Axis
    keys: Axis
    query: int | None
    within: frozenset

    @property
    def windows(self) -> bool:
        """Whether each image has more than one set of tokens, of which none sees another."""
        return self.view is not None and self.view.shape[0] > self._images

    _images: int = 1


def find_attention(graph: Graph) -> list[Attention]:
    """The attention layers of a network, in order of computation."""
    found = (_attention(graph, op) for op in graph.ops)
    return [a for a in found if a is not None]


def _attention(graph: Graph, product: Operation) -> Attention | None:
    eqn = product.equations[-1]
    if eqn.primitive.name != "dot_general" or product.kind != "gate":
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    for side in (0, 1):
        if len(contracted[side]) != 1:
            continue
        found = _softmax_behind(graph, eqn.invars[side])
        if found is None:
            continue
        softmax, way = found
        axis = _softmax_axis(softmax)
        if axis is None or _through(way, axis) != contracted[side][0]:
            continue
        if not _is_over_tokens(graph, softmax, axis):
            continue
        return _described(graph, product, side, softmax, way, axis, set(batch[side]))
    return None


# -- from the product back to the softmax ---------------------------------------------------------


def _softmax_behind(graph: Graph, atom: Any) -> tuple[Operation, list[Operation]] | None:
    """The softmax that a factor comes from, and the operations on the way, its first one first."""
    way: list[Operation] = []
    while not _literal(atom):
        op = graph.producer.get(atom)
        if op is None:
            return None
        if op.name == "softmax":
            return op, way[::-1]
        value = _carried_value(op)
        if value is None:
            return None
        way.append(op)
        atom = value
    return None


def _carried_value(op: Operation) -> Any:
    """The value that an operation moves, masks, scales, shifts, or mixes the heads of, or None."""
    if op.equations[-1].primitive.name == "select_n":  # where(isnan(a), 0, a) asks a itself
        floats = [v for v in op.inputs if v.aval.dtype.kind in "fV"]
        return floats[0] if len(floats) == 1 else None
    carries = op.kind in ("structural", "scale", "bias", "linear") and len(op.inputs) == 1
    if not carries or len(op.equations) > 1 or (op.kind == "linear" and op.name != "dense"):
        return None
    return op.inputs[0]


def _through(way: Sequence[Operation], axis: int | None) -> int | None:
    """Where an axis of a value lies behind operations; None where it is merged, mixed or gone."""
    for op in way:
        axis = None if axis is None else follow(op.equations[-1], _carried_value(op), axis)
    return axis


def follow(eqn: Any, v: Any, axis: int) -> int | None:
    """Where an axis of an equation's operand lies in its result; None where it is not kept."""
    name, old, new = eqn.primitive.name, v.aval.shape, eqn.outvars[0].aval.shape
    if name == "transpose":
        return eqn.params["permutation"].index(axis)
    if name == "broadcast_in_dim":
        place = eqn.params["broadcast_dimensions"][axis]
        return place if new[place] == old[axis] else None
    if name in ("reshape", "squeeze", "expand_dims"):
        return _reshaped(old, new, axis)
    if name == "dot_general":
        return _free(eqn, v, axis)
    return axis if old == new else None


def _reshaped(old: Sequence[int], new: Sequence[int], axis: int) -> int | None:
    before = math.prod(old[:axis])
    ahead = 1
    for i, n in enumerate(new):
        if ahead == before and n == old[axis] and (n != 1 or _alone(old, new, axis, i)):
            return i
        ahead *= n
    return None


def _alone(old: Sequence[int], new: Sequence[int], axis: int, i: int) -> bool:
    """Of axes of size 1 the one with as many of that size before it, where none came or went."""
    return len(old) == len(new) and axis == i


def _free(eqn: Any, v: Any, axis: int) -> int | None:
    """Where an axis of a product's operand lies in its result, if it is not summed over."""
    contracted, batch = eqn.params["dimension_numbers"]
    side = 0 if eqn.invars[0] is v else 1
    if axis in contracted[side]:
        return None
    if axis in batch[side]:
        return tuple(batch[side]).index(axis)
    own = free_axes(eqn, side)
    lead = len(batch[0]) + (len(free_axes(eqn, 0)) if side else 0)
    return lead + own.index(axis)


def free_axes(eqn: Any, side: int) -> list[int]:
    """The axes of a product's operand that are neither summed over nor shared."""
    contracted, batch = eqn.params["dimension_numbers"]
    used = {*contracted[side], *batch[side]}
    return [i for i in range(len(eqn.invars[side].aval.shape)) if i not in used]


# -- the softmax ----------------------------------------------------------------------------------


def _softmax_axis(op: Operation) -> int | None:
    """The axis of a softmax's output that it sums over; None unless there is exactly one."""
    return _summed_axis(op.equations, op.output)


def _summed_axis(eqns: Sequence[Any], output: Any) -> int | None:
    """The axis of the output along which a sum within the equations ran."""
    for i, eqn in enumerate(eqns):
        v = eqn.invars[0] if eqn.invars else None
        if eqn.primitive.name == "reduce_sum":
            axes = eqn.params["axes"]
            return _carried(eqns, v, axes[0], output) if len(axes) == 1 else None
        if eqn.primitive.name in _compat.CUSTOM_CALLS | _compat.CALLS:
            inner, _ = _compat.body(eqn)
            axis = _summed_axis(inner.eqns, inner.outvars[0])
            if axis is not None:
                return _carried(eqns[i + 1 :], eqn.outvars[0], axis, output)
    return None


def _carried(eqns: Sequence[Any], v: Any, axis: int, output: Any) -> int | None:
    """Where an axis of ``v`` lies in the output of equations that move it or keep its shape."""
    places = {v: axis}
    for eqn in reversed(eqns):  # what is summed is masked, or in float32, for the sum alone
        for u in eqn.invars if eqn.outvars[0] in places else ():
            if not _literal(u) and u.aval.shape == v.aval.shape:
                places[u] = axis
    for eqn in eqns:
        for u in eqn.invars:
            if _literal(u) or u not in places:
                continue
            found = follow(eqn, u, places[u])
            if found is not None and eqn.outvars[0] not in places:
                places[eqn.outvars[0]] = found
    return places.get(output)


def _is_over_tokens(graph: Graph, softmax: Operation, axis: int) -> bool:
    """Whether keys are tokens: not channels (cross-covariance attention), branches or experts.

    Scores of tokens are products over features. Where the scores are no product, as in a learned
    pooling, the axis must have places in the image.
    """
    scores, _ = _scores_behind(graph, softmax.inputs[0])
    axes = graph.places.axes.get(softmax.output, ())
    known = len(axes) > axis and bool(axes[axis].kinds & {*SPACE, "tokens", "unknown"})
    if scores is None:
        return known
    eqn = scores.equations[-1]
    for contracted, v in zip(eqn.params["dimension_numbers"][0], eqn.invars, strict=True):
        own = None if _literal(v) else graph.places.axes.get(v)
        if own is not None and any(own[d].spatial for d in contracted):
            return False
    return known or scores.kind == "gate"


def _scores_behind(graph: Graph, v: Any) -> tuple[Operation | None, set[Operation]]:
    """The product of queries and keys behind a softmax's input, of several one; and the way."""
    stack, seen = [v], set()
    while stack:
        op = graph.producer.get(stack.pop())
        if op is None or op in seen:
            continue
        seen.add(op)
        name = op.equations[-1].primitive.name
        if name == "dot_general" and not _mixes_heads(graph, op):
            return op, seen
        if name == "dot_general" or op.kind in ("structural", "scale", "bias", "add", "activation"):
            stack += reversed(op.inputs)
    return None, seen


def _mixes_heads(graph: Graph, op: Operation) -> bool:
    """Whether a product mixes the scores of several heads: a dense layer between products."""
    if op.kind != "linear":
        return False
    below = graph.producer.get(op.inputs[0])
    while below is not None and below.kind in ("structural", "scale", "bias") and below.inputs:
        below = graph.producer.get(below.inputs[0])
    return (
        below is not None
        and below.equations[-1].primitive.name == "dot_general"
        and (below.kind == "gate")
    )


# -- what the axes are ----------------------------------------------------------------------------


def _described(
    graph: Graph,
    product: Operation,
    side: int,
    softmax: Operation,
    way: list[Operation],
    axis: int,
    batch: set[int],
) -> Attention:
    weights, key, rest = softmax.output, axis, list(way)
    while rest and _only_masks(rest):  # what a mask behind the softmax hides is no weight
        while True:
            op = rest.pop(0)
            place = follow(op.equations[-1], _carried_value(op), key)
            weights, key = op.output, place if place is not None else key
            if op.equations[-1].primitive.name == "select_n":
                break
    axes = graph.places.axes[weights]
    eqn = product.equations[-1]
    free = set(free_axes(eqn, side))
    others = [d for d in range(len(axes)) if d != key]
    asked = [d for d in others if _through(rest, d) in free]
    query = _query(axes, asked)
    images = graph.inputs[0].aval.shape[0] if graph.inputs[0].aval.ndim == 4 else 1
    view = None if query is None else _view(axes, query, key, images)
    place = None if query is None else _through(rest, query)
    place = None if place is None else _free(eqn, eqn.invars[side], place)
    queries = Axis() if query is None else axes[query]
    behind = _scores_behind(graph, softmax.inputs[0])[1]
    within = frozenset(op.output for op in (softmax, *way, *behind))
    return Attention(weights, product, view, queries, axes[key], place, within, images)


def _query(axes: Axes, asked: list[int]) -> int | None:
    """The axis of queries, among those that are neither keys nor shared with the values.

    Others are groups of heads that share keys and values.
    """
    placed = [d for d in asked if axes[d].kinds & {*SPACE, "tokens", "unknown"}]
    if len(asked) > 1 and placed:
        asked = placed
    elif len(asked) > 1:
        asked = [d for d in asked if axes[d].kinds != {"channel"}][-1:]
    return asked[0] if len(asked) == 1 else None


def _only_masks(way: list[Operation]) -> bool:
    """Whether a mask follows, with nothing but moves before it."""
    for op in way:
        if op.equations[-1].primitive.name == "select_n":
            return True
        if op.kind != "structural":
            return False
    return False


def _view(axes: Axes, query: int, key: int, images: int) -> WeightsView | None:
    """The order of the parts of all axes that makes ``(B, heads, queries, keys)``."""
    sizes: list[int] = []
    kinds: list[str] = []
    for d, axis in enumerate(axes):
        if d in (query, key):
            parts = [("query" if d == query else "key", axis.size)]
        elif axis.before or axis.after:
            return None
        else:
            parts = [(_part(f), f.size) for f in axis.factors]
        kinds += [kind for kind, _ in parts]
        sizes += [n for _, n in parts]
    if "?" in kinds:
        return None
    groups = [[i for i, k in enumerate(kinds) if k == kind] for kind in ("batch", "window")]
    groups += [[i for i, k in enumerate(kinds) if k == kind] for kind in ("head", "query", "key")]
    batch, windows, heads, queries, keys = (math.prod(sizes[i] for i in own) for own in groups)
    if batch != images:
        return None
    shape = batch * windows, heads, queries, keys
    return WeightsView(shape, tuple(sizes), tuple(i for own in groups for i in own))


def _part(f: Factor) -> str:
    if f.kind in SPACE:
        return "window"
    return {"batch": "batch", "channel": "head"}.get(f.kind, "?")


def mixes_places(graph: Graph, op: Operation) -> bool:
    """Whether an operation's values come from several places in the image."""
    eqn = op.equations[-1]
    name = eqn.primitive.name
    if graph.places.mixes(op):
        return True
    if name == "dot_general":  # over an axis of which it is not known what it is
        contracted = eqn.params["dimension_numbers"][0]
        found = [None if _literal(v) else graph.places.axes.get(v) for v in eqn.invars]
        return any(
            axes is not None and any(axes[d].kinds & HIDDEN for d in own)
            for axes, own in zip(found, contracted, strict=True)
        )
    if op.kind == "normalise" or op.name == "softmax":
        return False
    axes = None if _literal(eqn.invars[0]) else graph.places.axes.get(eqn.invars[0])
    if axes is None:
        return False
    if name == "conv_general_dilated":
        spec = eqn.params["dimension_numbers"].rhs_spec[2:]
        return any(eqn.invars[1].aval.shape[d] > 1 for d in spec)
    if name.startswith("reduce_window"):
        return any(n > 1 for n in eqn.params["window_dimensions"])
    if of_class(name, "sum", "extreme") and "axes" in eqn.params:
        return any(axes[d].spatial and axes[d].kinds & {*SPACE} for d in eqn.params["axes"])
    return False


def _literal(atom: Any) -> bool:
    return isinstance(atom, _compat.Literal)
