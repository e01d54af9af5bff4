"""How the meaning of axes goes through each primitive; see :mod:`jaxplain.core.axes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxplain.core import _compat
from jaxplain.core.axes import (
    FREE,
    HIDDEN,
    SPACE,
    Axes,
    Axis,
    image_axes,
    merge,
    mirrored,
    reshape,
    resized,
    single,
    unknown,
)
from jaxplain.core.primitives import of_class


class _Cut(NamedTuple):
    """Where a value comes from that is a part of another along one axis."""

    source: Any
    axis: int
    start: int
    limit: int


class AxisFlow:
    """The axes of every value that depends on the network's input.

    Args:
        equations: of the flat program, in order, the ones that do not depend on the input too.
        constants: the program's weights.
        inputs: the images.
        given: values of which somebody knows better.
    """

    def __init__(
        self,
        equations: Sequence[Any],
        constants: Sequence[Any],
        inputs: Sequence[Any],
        given: Mapping[Any, Axes] | None = None,
    ):
        self.axes: dict[Any, Axes] = {v: image_axes(v.aval.shape) for v in inputs}
        self._given = given or {}
        self._learned: set = set(constants)
        self._cuts: dict[Any, _Cut] = {}
        self._parts: dict[Any, Any] = {}
        self._run(equations)

    def _run(self, equations: Sequence[Any]) -> None:
        for eqn in equations:
            known = [self._of(v) for v in eqn.invars]
            if not any(a is not None for a in known):
                if any(v in self._learned for v in eqn.invars if not _literal(v)):
                    self._learned.update(eqn.outvars)
                continue
            for v, axes in zip(eqn.outvars, self._outputs(eqn, known), strict=True):
                shape = getattr(v.aval, "shape", ())
                fits = len(axes) == len(shape) and all(
                    a.size == n for a, n in zip(axes, shape, strict=True)
                )
                self.axes[v] = axes if fits else unknown(shape)
                self.axes[v] = self._given.get(v, self.axes[v])

    def _of(self, atom: Any) -> Axes | None:
        return None if _literal(atom) else self.axes.get(atom)

    def _synthetic(self, atom: Any) -> bool:
        """Whether a constant is computed from nothing that the network was given: interpolation."""
        return not _literal(atom) and atom not in self.axes and atom not in self._learned

    def _outputs(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        name = eqn.primitive.name
        rule = _RULES.get(name)
        if rule is not None:
            return rule(self, eqn, known)
        if name in _compat.CALLS | _compat.CUSTOM_CALLS:
            return self._inside(*_compat.body(eqn), known)
        if name in ("scan", "while", "cond"):
            return _LOOPS[name](self, eqn, known)
        first = next(a for a in known if a is not None)
        shapes = [getattr(v.aval, "shape", ()) for v in eqn.outvars]
        if of_class(name, "identity", "elementwise", "move", "discrete") or name.startswith("cum"):
            return [_alike(eqn, known) for _ in eqn.outvars]
        if name.startswith(("reduce_", "arg")) and "axes" in eqn.params:
            gone = set(eqn.params["axes"])
            kept = tuple(a for i, a in enumerate(first) if i not in gone)
            return [kept for _ in eqn.outvars]
        return [unknown(shape) for shape in shapes]

    # -- bodies --------------------------------------------------------------------------------

    def _inside(self, jaxpr: Any, consts: list, known: Sequence[Axes | None]) -> list[Axes]:
        """The axes of a body's outputs from those of its inputs."""
        self._learned.update(jaxpr.constvars)
        for v, axes in zip(jaxpr.invars, known, strict=True):
            self.axes.pop(v, None)
            if axes is not None:
                self.axes[v] = axes
            else:
                self._learned.add(v)
        self._run(jaxpr.eqns)
        return [
            axes if (axes := self._of(v)) is not None else unknown(getattr(v.aval, "shape", ()))
            for v in jaxpr.outvars
        ]

    def _scan(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.body(eqn)
        n_consts, n_carry = _compat.scan_arity(eqn)
        rows = [None if a is None else a[1:] for a in known[n_consts + n_carry :]]
        inputs = [*known[: n_consts + n_carry], *rows]
        outs = self._inside(jaxpr, consts, inputs)
        for i in range(n_carry):  # once more, with what the first step made of the carry
            inputs[n_consts + i] = outs[i]
        outs = self._inside(jaxpr, consts, inputs)
        steps = single("channel", eqn.params["length"])
        return [*outs[:n_carry], *((steps, *axes) for axes in outs[n_carry:])]

    def _while(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.open_jaxpr(eqn.params["body_jaxpr"])
        skip, n = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        outs = self._inside(jaxpr, consts, known[skip:])
        return self._inside(jaxpr, consts, [*known[skip : skip + n], *outs])

    def _cond(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        jaxpr, consts = _compat.open_jaxpr(eqn.params["branches"][0])
        return self._inside(jaxpr, consts, known[1:])

    # -- changes of shape ----------------------------------------------------------------------

    def _reshape(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        return [reshape(_first(known), eqn.outvars[0].aval.shape)]

    def _transpose(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axes = _first(known)
        return [tuple(axes[i] for i in eqn.params["permutation"])]

    def _squeeze(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        gone = {d % len(_first(known)) for d in eqn.params["dimensions"]}
        return [tuple(a for i, a in enumerate(_first(known)) if i not in gone)]

    def _expand_dims(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        return [reshape(_first(known), eqn.outvars[0].aval.shape)]

    def _broadcast(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        shape, place = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
        old = eqn.invars[0].aval.shape
        axes = [single(FREE, n) for n in shape]
        for i, axis in zip(place, _first(known), strict=True):
            if old[place.index(i)] == shape[i]:
                axes[i] = axis
        return [tuple(axes)]

    def _slice(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        p = eqn.params
        steps = p["strides"] or (1,) * len(p["start_indices"])
        axes, shape = _first(known), eqn.invars[0].aval.shape
        self._note_cut(eqn.outvars[0], eqn.invars[0], p["start_indices"], p["limit_indices"], steps)
        new = eqn.outvars[0].aval.shape
        return [
            tuple(
                _cut(axes[i], p["start_indices"][i], p["limit_indices"][i], steps[i], new[i])
                for i in range(len(shape))
            )
        ]

    def _note_cut(self, out: Any, source: Any, starts: Any, limits: Any, steps: Any) -> None:
        self._parts[out] = source
        shape = source.aval.shape
        cut = [i for i, n in enumerate(shape) if (starts[i], limits[i], steps[i]) != (0, n, 1)]
        if len(cut) == 1 and steps[cut[0]] == 1:
            self._cuts[out] = _Cut(source, cut[0], starts[cut[0]], limits[cut[0]])

    def _split(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axis, axes, start, outs = eqn.params["axis"], _first(known), 0, []
        for v, n in zip(eqn.outvars, eqn.params["sizes"], strict=True):
            self._cuts[v], self._parts[v] = (
                _Cut(eqn.invars[0], axis, start, start + n),
                eqn.invars[0],
            )
            cut = _cut(axes[axis], start, start + n, 1, n)
            outs.append((*axes[:axis], cut, *axes[axis + 1 :]))
            start += n
        return outs

    def _dynamic_slice(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axes = known[0] or unknown(eqn.invars[0].aval.shape)
        return [tuple(resized(a, n) for a, n in zip(axes, eqn.outvars[0].aval.shape, strict=True))]

    def _keep_first(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        return [_alike(eqn, known)]

    def _pad(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
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

    def _concatenate(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        d = eqn.params["dimension"]
        # jnp.pad puts pieces of no size in front and behind.
        known = [None if v.aval.size == 0 else a for a, v in zip(known, eqn.invars, strict=True)]
        active = [a for a in known if a is not None]
        n = eqn.outvars[0].aval.shape[d]
        others = merge([(*a[:d], *a[d + 1 :]) for a in active])
        axis = self._joined_axis(eqn, known, d, n)
        return [(*others[:d], axis, *others[d:])]

    def _joined_axis(self, eqn: Any, known: list[Axes | None], d: int, n: int) -> Axis:
        cuts = [
            None if a is None else self._cuts.get(v) for a, v in zip(known, eqn.invars, strict=True)
        ]
        parts = [None if a is None else a[d] for a in known]
        sources = {id(c.source) for c in cuts if c is not None and c.axis == d}
        last, first = cuts if len(cuts) == 2 else (None, None)
        if last is not None and first is not None and len(sources) == 1:  # a roll, in two parts
            whole = self.axes[last.source][d]
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
        if all(self._root(v) is whole and p.size < axis.size for v, p in border):
            return resized(axis, n)
        return single("unknown", n)

    def _root(self, v: Any) -> Any:
        """The value that this one is a part of, turned or not."""
        while v in self._parts:
            v = self._parts[v]
        return v

    def _rev(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        self._parts[eqn.outvars[0]] = eqn.invars[0]
        gone = set(eqn.params["dimensions"])
        axes = _first(known)
        return [tuple(mirrored(a) if i in gone else a for i, a in enumerate(axes))]

    def _unstack(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axes, i = _first(known), eqn.params.get("axis", 0)
        return [(*axes[:i], *axes[i + 1 :]) for _ in eqn.outvars]

    def _tile(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        shape = eqn.outvars[0].aval.shape
        axes = _first(known)
        repeated = ("channel" if a.kinds <= {"channel", FREE} else "unknown" for a in axes)
        return [
            tuple(
                a if a.size == n else single(kind, n)
                for a, n, kind in zip(axes, shape, repeated, strict=True)
            )
        ]

    def _stack(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axes = merge([a for a in known if a is not None])
        i = eqn.params.get("axis", 0)
        new = single("channel", eqn.outvars[0].aval.shape[i])
        return [(*axes[:i], new, *axes[i:])]

    def _gather(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
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
            if (
                one
                and known[0][taken[0]].size == n
                and known[0][taken[0]].kinds - {"channel", FREE}
            ):
                axes[place] = single("unknown", n)  # a permutation of tokens, rows or images
        return [tuple(a for a in axes if a is not None)]

    # -- products, windows ---------------------------------------------------------------------

    def _dot_general(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
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
                    if met.kinds and met.spatial and self._synthetic(eqn.invars[side]):
                        axis = resized(met, n)  # interpolation along one direction
                axes.append(axis)
        return [tuple(axes)]

    def _conv(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
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

    def _window(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        shape = eqn.outvars[0].aval.shape
        return [tuple(resized(a, n) for a, n in zip(_first(known), shape, strict=True))]

    def _sort(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        axes, d = list(_first(known)), eqn.params["dimension"]
        if axes[d].kinds - {"channel"}:
            axes[d] = single("unknown", axes[d].size)
        return [tuple(axes) for _ in eqn.outvars]

    def _fft(self, eqn: Any, known: list[Axes | None]) -> list[Axes]:
        shape = eqn.outvars[0].aval.shape
        n = len(shape) - len(eqn.params["fft_lengths"])
        return [(*_first(known)[:n], *(single("channel", m) for m in shape[n:]))]


def _literal(atom: Any) -> bool:
    return isinstance(atom, _compat.Literal)


def _alike(eqn: Any, known: list[Axes | None]) -> Axes:
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


_RULES: dict[str, Callable] = {
    "reshape": AxisFlow._reshape,
    "transpose": AxisFlow._transpose,
    "squeeze": AxisFlow._squeeze,
    "expand_dims": AxisFlow._expand_dims,
    "broadcast_in_dim": AxisFlow._broadcast,
    "slice": AxisFlow._slice,
    "split": AxisFlow._split,
    "dynamic_slice": AxisFlow._dynamic_slice,
    "dynamic_update_slice": AxisFlow._keep_first,
    "scatter": AxisFlow._keep_first,
    "scatter-add": AxisFlow._keep_first,
    "pad": AxisFlow._pad,
    "concatenate": AxisFlow._concatenate,
    "stack": AxisFlow._stack,
    "tile": AxisFlow._tile,
    "unstack": AxisFlow._unstack,
    "gather": AxisFlow._gather,
    "dot_general": AxisFlow._dot_general,
    "conv_general_dilated": AxisFlow._conv,
    "reduce_window_max": AxisFlow._window,
    "reduce_window_min": AxisFlow._window,
    "reduce_window_sum": AxisFlow._window,
    "reduce_window": AxisFlow._window,
    "rev": AxisFlow._rev,
    "sort": AxisFlow._sort,
    "fft": AxisFlow._fft,
}
_LOOPS = {"scan": AxisFlow._scan, "while": AxisFlow._while, "cond": AxisFlow._cond}
