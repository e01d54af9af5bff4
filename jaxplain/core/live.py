"""Which part of each value a signal can reach: where only the class token is read, its row alone.

The backward pass of a dense layer then needs no more than these rows, and of a layer that computes
queries, keys and values together, the columns of the values, where the others get no signal.

A *part* of a value is a range of positions along each of its axes, or None where it gets none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxplain.core import _compat
from jaxplain.core.operations import Operation
from jaxplain.core.primitives import is_identity, of_class

Part = tuple[tuple[int, int], ...]


def whole(v: Any) -> Part:
    """All of a value."""
    return tuple((0, n) for n in v.aval.shape)


def live_parts(
    ops: list[Operation], ends: list, silent: Callable[[Operation], tuple[bool, ...]]
) -> dict[Any, Part | None]:
    """The part of every value that a signal from ``ends`` can reach.

    Args:
        ops: the operations, in order.
        ends: the values where signals start.
        silent: which inputs of an operation get no signal from it.
    """
    parts: dict[Any, Part | None] = {
        v: whole(v) for v in ends if not isinstance(v, _compat.Literal)
    }
    for op in reversed(ops):
        outs = [parts.get(v) for v in op.outputs]
        if all(part is None for part in outs):
            continue
        for v, none in zip(op.inputs, silent(op), strict=True):
            if not none:
                reached = _reached(op, v, outs[0]) if len(outs) == 1 else _of_several(op, v, outs)
                parts[v] = _union(parts.get(v), reached or whole(v))
    return parts


def _union(a: Part | None, b: Part) -> Part:
    if a is None:
        return b
    return tuple((min(x[0], y[0]), max(x[1], y[1])) for x, y in zip(a, b, strict=True))


def _reached(op: Operation, v: Any, out: Part | None) -> Part | None:
    """What of an input the signal at a part of the output reaches; None where it may be all."""
    if out is None:
        return None
    eqn = op.equations[-1]
    if op.kind in ("scale", "bias", "activation", "add") or op.name in ("mul", "div"):
        return _broadcast(v, out)
    if op.kind == "normalise":
        return _through_norm(op, v, out)
    if op.name in ("dense", "matmul") and eqn.primitive.name == "dot_general":
        return through_product(eqn, v, out)
    if op.kind == "structural" and len(op.equations) == 1:
        move = _MOVES.get(eqn.primitive.name)
        if is_identity(eqn):
            return out
        return move(eqn, v, out) if move else None
    return None


def _of_several(op: Operation, v: Any, outs: list[Part | None]) -> Part | None:
    """Of a value that is cut into several, the range of those that a signal reaches."""
    eqn = op.equations[-1]
    name, axis = eqn.primitive.name, eqn.params.get("axis")
    if name not in ("split", "unstack") or axis is None or len(op.equations) > 1:
        return None
    sizes = eqn.params["sizes"] if name == "split" else (1,) * len(outs)
    found: Part | None = None
    for i, (out, size) in enumerate(zip(outs, sizes, strict=True)):
        if out is not None:
            start = sum(sizes[:i])
            own = out[axis] if name == "split" else (0, size)
            after = out[axis + 1 :] if name == "split" else out[axis:]
            part = (*out[:axis], (start + own[0], start + own[1]), *after)
            found = _union(found, part)
    return found


def _broadcast(v: Any, out: Part) -> Part | None:
    """Of an elementwise operation, whose inputs may have been broadcast."""
    shape = v.aval.shape
    if len(shape) != len(out):
        return None
    return tuple((0, 1) if n == 1 else part for n, part in zip(shape, out, strict=True))


def _through_norm(op: Operation, v: Any, out: Part) -> Part | None:
    """All of the axes that the statistics run over, the same of the others."""
    shape = v.aval.shape
    if op.output.aval.shape != shape:
        return None
    rank = len(shape)
    places = {u: tuple(range(rank)) for u in op.inputs if len(u.aval.shape) == rank}
    axes = _reduced(op.equations, places, rank)
    if axes is None:
        return None
    return tuple((0, n) if i in axes else out[i] for i, n in enumerate(shape))


def _reduced(eqns: Any, places: dict, rank: int) -> set[int] | None:
    """The axes that equations add up or compare along; None where they move values too.

    ``places`` are the axes of the norm's value that the axes of each of theirs belong to.
    """
    found: set[int] = set()
    for eqn in eqns:
        name = eqn.primitive.name
        known = [
            places[v] for v in eqn.invars if not isinstance(v, _compat.Literal) and v in places
        ]
        if not known:
            continue  # of constants
        axes, shape = known[0], eqn.outvars[0].aval.shape
        if name in _compat.CALLS | _compat.CUSTOM_CALLS:
            inner = _compat.body(eqn)[0]
            own = {
                u: places[v]
                for u, v in zip(inner.invars, eqn.invars, strict=True)
                if not isinstance(v, _compat.Literal) and v in places
            }
            more = _reduced(inner.eqns, own, rank)
            if more is None or any(own.get(u) is None for u in inner.outvars):
                return None
            found |= more
            places.update((v, own[u]) for v, u in zip(eqn.outvars, inner.outvars, strict=True))
            continue
        if any(other != axes for other in known):
            return None
        if of_class(name, "sum", "extreme"):
            if "axes" not in eqn.params:
                return None
            gone = {axes[i] for i in eqn.params["axes"]}
            found |= gone
            axes = tuple(i for i in axes if i not in gone)
        elif name == "broadcast_in_dim":
            if len(shape) != rank or tuple(eqn.params["broadcast_dimensions"]) != axes:
                return None
            axes = tuple(range(rank))
        elif name in ("reshape", "expand_dims", "squeeze"):
            old = dict(zip(axes, eqn.invars[0].aval.shape, strict=True))
            if len(shape) != rank or any(shape[i] != old.get(i, 1) for i in range(rank)):
                return None
            axes = tuple(range(rank))
        elif (
            not (is_identity(eqn) or name in ("select_n", "stop_gradient"))
            and not of_class(name, "elementwise", "discrete")
            or len(shape) != len(axes)
        ):
            return None
        places.update(dict.fromkeys(eqn.outvars, axes))
    return found


def through_product(eqn: Any, v: Any, out: Part) -> Part | None:
    """What of a factor of a ``dot_general`` belongs to a part of its output."""
    first, second = eqn.invars
    if first is second:
        return None
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    own, taken, batch = (first, left, left_batch) if v is first else (second, right, right_batch)
    if own is not v:
        return None
    others = len(first.aval.shape) - len(left) - len(left_batch)
    start = len(left_batch) + (0 if v is first else others)
    free = [i for i in range(len(v.aval.shape)) if i not in taken and i not in batch]
    places = {axis: i for i, axis in enumerate(batch)}
    places |= {axis: start + i for i, axis in enumerate(free)}
    return tuple(out[places[i]] if i in places else (0, n) for i, n in enumerate(v.aval.shape))


# -- moves: of one input, the part from which a part of the output comes ------------------------


def _slice(eqn: Any, v: Any, out: Part) -> Part:
    starts, strides = eqn.params["start_indices"], eqn.params["strides"] or (1,) * len(out)
    return tuple(
        (s + low * step, s + (high - 1) * step + 1)
        for s, step, (low, high) in zip(starts, strides, out, strict=True)
    )


def _transpose(eqn: Any, v: Any, out: Part) -> Part:
    order = eqn.params["permutation"]
    return tuple(out[order.index(i)] for i in range(len(out)))


def _squeeze(eqn: Any, v: Any, out: Part) -> Part:
    kept = iter(out)
    gone = eqn.params["dimensions"]
    return tuple((0, 1) if i in gone else next(kept) for i in range(len(v.aval.shape)))


def _repeat(eqn: Any, v: Any, out: Part) -> Part:
    places = eqn.params["broadcast_dimensions"]
    return tuple((0, 1) if n == 1 else out[p] for n, p in zip(v.aval.shape, places, strict=True))


def _concatenate(eqn: Any, v: Any, out: Part) -> Part | None:
    if sum(u is v for u in eqn.invars) != 1:
        return None
    axis, start = eqn.params["dimension"], 0
    for u in eqn.invars:
        size = u.aval.shape[axis]
        if u is v:
            break
        start += size
    low, high = (min(max(n - start, 0), size) for n in out[axis])
    # Nothing of it is reached: an empty range has no place in a union, one row does no harm.
    own = (low, high) if low < high else (0, 1)
    return (*out[:axis], own, *out[axis + 1 :])


def _reshape(eqn: Any, v: Any, out: Part) -> Part:
    """Axes that stay, or fall apart or together with all of the rest, keep their range."""
    old, new = v.aval.shape, eqn.outvars[0].aval.shape
    found = [(0, n) for n in old]
    for i, j, m, n in _groups(old, new):
        box, sizes = out[m:n], new[m:n]
        if j - i == 1:
            found[i] = _flat(box, sizes)
            continue
        if n - m == 1:  # several axes became one: of a range that is whole in all but the first
            inner = math.prod(old[i + 1 : j])
            low, high = box[0]
            found[i] = (low // inner, -(-high // inner))
    return tuple(found)


def _flat(box: Part, sizes: tuple[int, ...]) -> tuple[int, int]:
    """The range of places in row-major order that holds a part."""
    low = high = 0
    for (start, end), size in zip(box, sizes, strict=True):
        low, high = low * size + start, high * size + end - 1
    return low, high + 1


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Runs of axes of equal product, from the left: ``old[i:j]`` becomes ``new[m:n]``."""
    groups, i, m = [], 0, 0
    while i < len(old) and m < len(new):
        j, n, left, right = i + 1, m + 1, old[i], new[m]
        while left != right:
            if left < right:
                if j == len(old):
                    return groups
                left, j = left * old[j], j + 1
            else:
                if n == len(new):
                    return groups
                right, n = right * new[n], n + 1
        groups.append((i, j, m, n))
        i, m = j, n
    return groups


_MOVES: Mapping[str, Callable[[Any, Any, Part], Part | None]] = {
    "slice": _slice,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _repeat,
    "concatenate": _concatenate,
    "reshape": _reshape,
}
