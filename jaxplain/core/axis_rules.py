"""The axes of what a primitive puts out, from those of what it is given: one function for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxplain.core.axes import (
    FREE,
    HIDDEN,
    SPACE,
    Axes,
    Axis,
    merge,
    mirrored,
    reshape,
    resized,
    single,
    unknown,
)

if TYPE_CHECKING:
    from jaxplain.core.axis_flow import AxisFlow


class Cut(NamedTuple):
    """Where a value comes from that is a part of another along one axis."""

    source: Any
    axis: int
    start: int
    limit: int


# -- changes of shape ------------------------------------------------------------------------


def _reshape(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    return [reshape(_first(known), eqn.outvars[0].aval.shape)]


def _transpose(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axes = _first(known)
    return [tuple(axes[i] for i in eqn.params["permutation"])]


def _squeeze(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    gone = {d % len(_first(known)) for d in eqn.params["dimensions"]}
    return [tuple(a for i, a in enumerate(_first(known)) if i not in gone)]


def _expand_dims(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    return [reshape(_first(known), eqn.outvars[0].aval.shape)]


def _broadcast(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape, place = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    old = eqn.invars[0].aval.shape
    axes = [single(FREE, n) for n in shape]
    for i, axis in zip(place, _first(known), strict=True):
        if old[place.index(i)] == shape[i]:
            axes[i] = axis
    return [tuple(axes)]


def _slice(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    p = eqn.params
    steps = p["strides"] or (1,) * len(p["start_indices"])
    axes, shape = _first(known), eqn.invars[0].aval.shape
    _note_cut(flow, eqn.outvars[0], eqn.invars[0], p["start_indices"], p["limit_indices"], steps)
    new = eqn.outvars[0].aval.shape
    return [
        tuple(
            _cut(axes[i], p["start_indices"][i], p["limit_indices"][i], steps[i], new[i])
            for i in range(len(shape))
        )
    ]


def _note_cut(flow: AxisFlow, out: Any, source: Any, starts: Any, limits: Any, steps: Any) -> None:
    flow.parts[out] = source
    shape = source.aval.shape
    cut = [i for i, n in enumerate(shape) if (starts[i], limits[i], steps[i]) != (0, n, 1)]
    if len(cut) == 1 and steps[cut[0]] == 1:
        flow.cuts[out] = Cut(source, cut[0], starts[cut[0]], limits[cut[0]])


def _split(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axis, axes, start, outs = eqn.params["axis"], _first(known), 0, []
    for v, n in zip(eqn.outvars, eqn.params["sizes"], strict=True):
        flow.cuts[v], flow.parts[v] = (
            Cut(eqn.invars[0], axis, start, start + n),
            eqn.invars[0],
        )
        cut = _cut(axes[axis], start, start + n, 1, n)
        outs.append((*axes[:axis], cut, *axes[axis + 1 :]))
        start += n
    return outs


def _dynamic_slice(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axes = known[0] or unknown(eqn.invars[0].aval.shape)
    return [tuple(resized(a, n) for a, n in zip(axes, eqn.outvars[0].aval.shape, strict=True))]


def _keep_first(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    return [alike(eqn, known)]


def _pad(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    if known[0] is None:
        return [unknown(eqn.outvars[0].aval.shape)]
    shape = eqn.outvars[0].aval.shape
    many = sum(a.spatial and bool(a.kinds & set(SPACE)) for a in known[0]) > 1
    axes = []
    for axis, n, (low, high, inside) in zip(
        known[0], shape, eqn.params["padding_config"], strict=True
    ):
        if not (low or high or inside):
            axes.append(axis)
        elif not axis.spatial or many or inside or min(low, high) < 0:
            axes.append(resized(axis, n))
        else:
            axes.append(
                dataclasses.replace(axis, before=axis.before + low, after=axis.after + high)
            )
    return [tuple(axes)]


def _concatenate(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    d = eqn.params["dimension"]
    # jnp.pad puts pieces of no size in front and behind.
    known = [None if v.aval.size == 0 else a for a, v in zip(known, eqn.invars, strict=True)]
    active = [a for a in known if a is not None]
    n = eqn.outvars[0].aval.shape[d]
    others = merge([(*a[:d], *a[d + 1 :]) for a in active])
    axis = _joined_axis(flow, eqn, known, d, n)
    return [(*others[:d], axis, *others[d:])]


def _joined_axis(flow: AxisFlow, eqn: Any, known: list[Axes | None], d: int, n: int) -> Axis:
    cuts = [None if a is None else flow.cuts.get(v) for a, v in zip(known, eqn.invars, strict=True)]
    parts = [None if a is None else a[d] for a in known]
    sources = {id(c.source) for c in cuts if c is not None and c.axis == d}
    last, first = cuts if len(cuts) == 2 else (None, None)
    if last is not None and first is not None and len(sources) == 1:  # a roll, in two parts
        whole = flow.axes[last.source][d]
        size = last.source.aval.shape[d]
        if (last.limit, first.start) == (size, 0) and last.start == first.limit:
            return _rolled(whole, last.start)
    spatial = [p for p in parts if p is not None and p.spatial]
    if not spatial:
        kinds = {k for p in parts if p is not None for k in p.kinds}
        return single("unknown" if kinds & HIDDEN else "channel", n)
    rank3 = len(eqn.outvars[0].aval.shape) <= 3
    tokens = [p for p in spatial if len(p.factors) > 1 or rank3]
    if len(spatial) == 1 and tokens and spatial[0].factors[0].kind != "batch":
        i = next(j for j, p in enumerate(parts) if p is spatial[0])
        sizes = [v.aval.shape[d] for v in eqn.invars]
        return dataclasses.replace(
            spatial[0],
            before=spatial[0].before + sum(sizes[:i]),
            after=spatial[0].after + sum(sizes[i + 1 :]),
        )
    # padded with zeros, or with its own border
    around = [(v, p) for v, p in zip(eqn.invars, parts, strict=True) if p in spatial]
    if len(around) == 1:
        return resized(spatial[0], n)
    (whole, axis), *border = sorted(around, key=lambda pair: -pair[1].size)
    if all(_root(flow, v) is whole and p.size < axis.size for v, p in border):
        return resized(axis, n)
    return single("unknown", n)


def _root(flow: AxisFlow, v: Any) -> Any:
    """The value that this one is a part of, turned or not."""
    while v in flow.parts:
        v = flow.parts[v]
    return v


def _rev(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    flow.parts[eqn.outvars[0]] = eqn.invars[0]
    gone = set(eqn.params["dimensions"])
    axes = _first(known)
    return [tuple(mirrored(a) if i in gone else a for i, a in enumerate(axes))]


def _unstack(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axes, i = _first(known), eqn.params.get("axis", 0)
    return [(*axes[:i], *axes[i + 1 :]) for _ in eqn.outvars]


def _tile(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape = eqn.outvars[0].aval.shape
    axes = _first(known)
    repeated = ("channel" if a.kinds <= {"channel", FREE} else "unknown" for a in axes)
    return [
        tuple(
            a if a.size == n else single(kind, n)
            for a, n, kind in zip(axes, shape, repeated, strict=True)
        )
    ]


def _stack(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axes = merge([a for a in known if a is not None])
    i = eqn.params.get("axis", 0)
    new = single("channel", eqn.outvars[0].aval.shape[i])
    return [(*axes[:i], new, *axes[i:])]


def _gather(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape = eqn.outvars[0].aval.shape
    if known[0] is None or known[1] is not None:
        return [unknown(shape)]
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    batching = set(getattr(numbers, "operand_batching_dims", ()))
    gone = set(numbers.collapsed_slice_dims) | batching
    kept = [i for i in range(len(sizes)) if i not in gone]
    axes: list[Axis | None] = [None] * len(shape)
    for place, i in zip(numbers.offset_dims, kept, strict=True):
        axes[place] = resized(known[0][i], sizes[i])
    free = [i for i, a in enumerate(axes) if a is None]
    taken = sorted(set(numbers.collapsed_slice_dims))
    for place in free:
        n = shape[place]
        one = len(free) == len(taken) == 1
        axes[place] = resized(known[0][taken[0]], n) if one else single("unknown", n)
        if one and known[0][taken[0]].size == n and known[0][taken[0]].kinds - {"channel", FREE}:
            axes[place] = single("unknown", n)  # a permutation of tokens, rows or images
    return [tuple(a for a in axes if a is not None)]


# -- products, windows -----------------------------------------------------------------------


def _dot_general(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    contracted, batch = eqn.params["dimension_numbers"]
    axes = [
        merge([a[d : d + 1] for a, d in zip(known, pair, strict=True) if a is not None])[0]
        for pair in zip(*batch, strict=True)
    ]
    for side in (0, 1):
        shape, own = eqn.invars[side].aval.shape, known[side]
        used = {*contracted[side], *batch[side]}
        for i, n in enumerate(shape):
            if i in used:
                continue
            if own is not None:
                axes.append(own[i])
                continue
            axis, other = single("channel", n), known[1 - side]
            if len(contracted[side]) == 1 and other is not None:
                met = other[contracted[1 - side][0]]
                if met.kinds and met.spatial and flow.synthetic(eqn.invars[side]):
                    axis = resized(met, n)  # interpolation along one direction
            axes.append(axis)
    return [tuple(axes)]


def _conv(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape = eqn.outvars[0].aval.shape
    if known[0] is None or known[1] is not None:
        return [unknown(shape)]
    spec = eqn.params["dimension_numbers"]
    left, out = spec.lhs_spec, spec.out_spec
    axes: list[Axis] = [Axis()] * len(shape)
    axes[out[0]] = known[0][left[0]]
    if eqn.params["batch_group_count"] > 1:
        axes[out[0]] = single("unknown", shape[out[0]])
    axes[out[1]] = single("channel", shape[out[1]])
    for j, (i, o) in enumerate(zip(left[2:], out[2:], strict=True)):
        axis = known[0][i]
        if axis.kinds == {"unknown"} and len(left) == 4:
            axis = single(SPACE[j], axis.size)
        axes[o] = resized(axis, shape[o])
    return [tuple(axes)]


def _window(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape = eqn.outvars[0].aval.shape
    return [tuple(resized(a, n) for a, n in zip(_first(known), shape, strict=True))]


def _sort(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    axes, d = list(_first(known)), eqn.params["dimension"]
    if axes[d].kinds - {"channel"}:
        axes[d] = single("unknown", axes[d].size)
    return [tuple(axes) for _ in eqn.outvars]


def _fft(flow: AxisFlow, eqn: Any, known: list[Axes | None]) -> list[Axes]:
    shape = eqn.outvars[0].aval.shape
    n = len(shape) - len(eqn.params["fft_lengths"])
    return [(*_first(known)[:n], *(single("channel", m) for m in shape[n:]))]


# -- what several of them need ---------------------------------------------------------------


def alike(eqn: Any, known: list[Axes | None]) -> Axes:
    """The axes of a result that has a value for each place of its operands."""
    shape = eqn.outvars[0].aval.shape
    found = []
    for axes, v in zip(known, eqn.invars, strict=True):
        if axes is not None and len(v.aval.shape) == len(shape):  # sizes of 1 are broadcast
            fits = (a.size == n for a, n in zip(axes, shape, strict=True))
            found.append(tuple(a if f else Axis() for a, f in zip(axes, fits, strict=True)))
    merged = merge(found) if found else unknown(shape)
    return tuple(a if a.size == n else single(FREE, n) for a, n in zip(merged, shape, strict=True))


def _first(known: list[Axes | None]) -> Axes:
    return next(a for a in known if a is not None)


def _cut(axis: Axis, start: int, limit: int, step: int, n: int) -> Axis:
    """A slice of an axis: tokens lose those in front, positions become fewer."""
    if n == axis.size:
        return axis
    if not (axis.before or axis.after):
        return resized(axis, n)
    behind = axis.size - axis.after
    if limit <= axis.before or start >= behind:  # only what is no position
        return single("channel", n)
    if step == 1 and start <= axis.before and limit >= behind:
        return dataclasses.replace(axis, before=axis.before - start, after=limit - behind)
    return single("unknown", n) if n > 1 else Axis()


def _rolled(axis: Axis, by: int) -> Axis:
    if axis.kinds <= {"channel", FREE} or not axis.factors:
        return axis
    alone = len(axis.factors) == 1 and not axis.before + axis.after
    if alone and axis.factors[0].kind in SPACE and not axis.factors[0].mirrored:
        (f,) = axis.factors
        return Axis((dataclasses.replace(f, shift=(f.shift + by) % f.size),))
    return single("unknown", axis.size)


RULES: dict[str, Callable] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "split": _split,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _keep_first,
    "scatter": _keep_first,
    "scatter-add": _keep_first,
    "pad": _pad,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "unstack": _unstack,
    "gather": _gather,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "reduce_window_max": _window,
    "reduce_window_min": _window,
    "reduce_window_sum": _window,
    "reduce_window": _window,
    "rev": _rev,
    "sort": _sort,
    "fft": _fft,
}
