"""Map a function over an axis that stands behind the batch: `jax.vmap` for what is sharded.

`jax.vmap` merges the axis of a convolution's many inputs in front of the batch. Where the batch
lies on several devices, that has no layout in which each keeps its own images: XLA gathers them,
and every device does all the work. Here the axis is merged behind the batch, ``(B, K, ...)`` to
``(B K, ...)``, and each device maps over its own images alone. Nothing is moved, either, between
one operation and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain.core import _compat
from jaxplain.core.hoist import hoist
from jaxplain.core.primitives import of_class


class _Value(NamedTuple):
    """An array, and which of its axes is the mapped one; None if it has none."""

    array: Any
    axis: int | None


def behind(ndim: int) -> int:
    """Where the mapped axis of a value that has ``ndim`` others stands: behind the first."""
    return min(1, ndim)


def batched(function: Callable, *axes: int) -> Callable:
    """``function`` of one of many inputs each, mapped over all of them side by side.

    Args:
        function: of pytrees of arrays, to a pytree of arrays.
        axes: for each argument, the mapped axis of all its arrays; 1 where it is not said.

    Returns:
        The mapped function. Its results have the mapped axis behind their first axis, or as the
        only one.

    >>> import jax.numpy as jnp
    >>> sums = batched(lambda v: v.sum(-1))(jnp.arange(12.0).reshape(2, 3, 2))
    >>> sums.tolist()
    [[1.0, 5.0, 9.0], [13.0, 17.0, 21.0]]
    """

    def call(*args: Any) -> Any:
        given = [*axes, *[1] * (len(args) - len(axes))]
        placed = [
            (leaf, axis)
            for arg, axis in zip(args, given, strict=True)
            for leaf in jax.tree.leaves(arg)
        ]
        tree = jax.tree.structure(args)
        like = [lax.index_in_dim(leaf, 0, axis, keepdims=False) for leaf, axis in placed]
        closed, out = jax.make_jaxpr(
            lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True
        )(*(_compat.shape_of(jax.typeof(v)) for v in like))
        size = placed[0][0].shape[placed[0][1]]
        jaxpr, consts = _compat.open_jaxpr(closed)
        found = _Mapped(size).run(jaxpr, consts, [_Value(*v) for v in placed])
        results = [_aligned(v, size) for v in found]
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return call


def in_chunks(function: Callable, args: tuple, axes: tuple[int, ...], size: int | None) -> Any:
    """`batched` ``function`` of ``args``, at most ``size`` at once; None takes all.

    What does not depend on the arguments is computed once, before the loop.

    >>> import jax.numpy as jnp
    >>> in_chunks(lambda v: 2 * v, (jnp.arange(5.0),), (0,), 2).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    leaves, tree = jax.tree.flatten(args)
    places = [
        axis for arg, axis in zip(args, axes, strict=True) for _ in range(len(jax.tree.leaves(arg)))
    ]
    length = leaves[0].shape[places[0]]
    if size is None or size >= length:
        return batched(function, *axes)(*args)
    whole = length - length % size

    def cut(start: int, stop: int) -> list:
        return [
            lax.slice_in_dim(v, start, stop, axis=i) for v, i in zip(leaves, places, strict=True)
        ]

    def rows(v: jax.Array, axis: int) -> jax.Array:
        parts = v.reshape(*v.shape[:axis], whole // size, size, *v.shape[axis + 1 :])
        return jnp.moveaxis(parts, axis, 0)

    stacked = [rows(v, axis) for v, axis in zip(cut(0, whole), places, strict=True)]
    like = [
        lax.index_in_dim(v, 0, axis, keepdims=False) for v, axis in zip(leaves, places, strict=True)
    ]
    mapped = batched(hoist(function, *jax.tree.unflatten(tree, like)), *axes)
    _, found = lax.scan(
        lambda _, row: (None, mapped(*jax.tree.unflatten(tree, row))), None, stacked
    )

    def flat(v: jax.Array) -> jax.Array:
        axis = behind(v.ndim - 2)
        parts = jnp.moveaxis(v, 0, axis)
        return parts.reshape(*parts.shape[:axis], whole, *parts.shape[axis + 2 :])

    found = jax.tree.map(flat, found)
    if whole == length:
        return found
    rest = mapped(*jax.tree.unflatten(tree, cut(whole, length)))
    return jax.tree.map(lambda a, b: lax.concatenate([a, b], behind(a.ndim - 1)), found, rest)


def _aligned(value: _Value, size: int) -> jax.Array:
    """The array with the mapped axis in its place, repeated where it has none."""
    array, axis = value
    if axis is None:
        array = jnp.asarray(array)
        place = behind(array.ndim)
        shape = (*array.shape[:place], size, *array.shape[place:])
        return jnp.broadcast_to(jnp.expand_dims(array, place), shape)
    return jnp.moveaxis(array, axis, behind(array.ndim - 1))


class _Mapped:
    """Evaluates a jaxpr on values of which some are mapped over an axis of ``size``."""

    def __init__(self, size: int):
        self.size = size

    def run(self, jaxpr: Any, consts: Sequence, args: Sequence[_Value]) -> list[_Value]:
        # In jax 0.12 an open jaxpr has its constants among the inputs: they come first in any case.
        env = dict(
            zip(
                [*jaxpr.constvars, *jaxpr.invars],
                [*(_Value(c, None) for c in consts), *args],
                strict=True,
            )
        )

        def read(atom: Any) -> _Value:
            return _Value(atom.val, None) if isinstance(atom, _compat.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            values = [read(v) for v in eqn.invars]
            with _compat.equation_context(eqn):
                env.update(zip(eqn.outvars, self._equation(eqn, values), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _equation(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        name = eqn.primitive.name
        if all(v.axis is None for v in values):
            return [_Value(out, None) for out in _compat.bind(eqn, *(v.array for v in values))]
        if name in _compat.CALLS:
            return self._call(eqn, values)
        if name == "optimization_barrier":
            outs = _compat.bind(eqn, *(v.array for v in values))
            return [_Value(out, v.axis) for out, v in zip(outs, values, strict=True)]
        if name == "scan":
            return self._scan(eqn, values)
        if name == "while":
            return self._while(eqn, values)
        found = None
        if name == "conv_general_dilated":
            found = self._convolution(eqn, values)
        elif name == "reshape":
            found = _reshape(eqn, values)
        elif name == "concatenate":
            found = self._concatenate(eqn, values)
        elif of_class(name, "elementwise") or name == "select_n":
            found = _elementwise(eqn, values)
        return self._any(eqn, values) if found is None else [_Value(found, 1)]

    def _any(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        places = [behind(len(v.aval.shape)) for v in eqn.outvars]
        outs = jax.vmap(
            lambda *arrays: _compat.bind(eqn, *arrays),
            in_axes=tuple(v.axis for v in values),
            out_axes=places,
            axis_size=self.size,
        )(*(v.array for v in values))
        return list(map(_Value, outs, places))

    # -- operations for which vmap would move the mapped axis to the front ---------------------

    def _convolution(self, eqn: Any, values: list[_Value]) -> Any:
        images, kernel = values
        if images.axis is None or kernel.axis is not None or eqn.params["batch_group_count"] != 1:
            return None
        numbers = eqn.params["dimension_numbers"]
        batch, out = numbers.lhs_spec[0], numbers.out_spec[0]
        array = jnp.moveaxis(images.array, images.axis, batch + 1)
        count, *_ = array.shape[batch : batch + 1]
        array = array.reshape(*array.shape[:batch], -1, *array.shape[batch + 2 :])
        (result,) = _compat.bind(eqn, array, kernel.array)
        shape = (*result.shape[:out], count, self.size, *result.shape[out + 1 :])
        return jnp.moveaxis(result.reshape(shape), out + 1, 1)

    def _concatenate(self, eqn: Any, values: list[_Value]) -> Any:
        dimension = eqn.params["dimension"]
        parts = [_aligned(v, self.size) for v in values]
        return lax.concatenate(parts, dimension + (dimension >= 1))

    # -- programs within the program -------------------------------------------------------------

    def _call(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        jaxpr, consts = _compat.body(eqn)
        if eqn.params.get("differentiated"):
            # The backward pass of a checkpoint, which must not share work with the forward pass.
            arrays = lax.optimization_barrier([v.array for v in values])
            values = [_Value(a, v.axis) for a, v in zip(arrays, values, strict=True)]
        return self.run(jaxpr, consts, values)

    def _scan(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        jaxpr, closed = _compat.body(eqn)
        n, m = _compat.scan_arity(eqn)
        consts, start, rows = values[:n], values[n : n + m], values[n + m :]
        carried = [v.axis is not None for v in start]
        others = ([v.axis is not None for v in part] for part in (consts, rows))
        held, stacked = others
        while True:
            found = _depend(jaxpr, [*[False] * len(closed), *held, *carried, *stacked])
            wider = [a or b for a, b in zip(carried, found[:m], strict=True)]
            if wider == carried:
                break
            carried = wider
        start = [self._fit(v, is_mapped) for v, is_mapped in zip(start, carried, strict=True)]
        rows = [_row(v) for v in rows]
        axes = [None if v.axis is None else v.axis - 1 for v in rows]

        def step(carry: list, row: list) -> tuple[list, list]:
            inner = [
                _Value(a, _own(a, is_mapped)) for a, is_mapped in zip(carry, carried, strict=True)
            ]
            each = [_Value(a, axis) for a, axis in zip(row, axes, strict=True)]
            outs = self.run(jaxpr, closed, [*consts, *inner, *each])
            after = [
                self._fit(v, is_mapped).array
                for v, is_mapped in zip(outs[:m], carried, strict=True)
            ]
            ys = [
                self._fit(v, is_mapped).array
                for v, is_mapped in zip(outs[m:], found[m:], strict=True)
            ]
            return after, ys

        options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
        last, ys = lax.scan(step, [v.array for v in start], [v.array for v in rows], **options)
        return [
            *(_Value(a, _own(a, is_mapped)) for a, is_mapped in zip(last, carried, strict=True)),
            *(
                _Value(a, 1 + behind(a.ndim - 2) if is_mapped else None)
                for a, is_mapped in zip(ys, found[m:], strict=True)
            ),
        ]

    def _while(self, eqn: Any, values: list[_Value]) -> list[_Value]:
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        asks, asks_closed = _compat.open_jaxpr(eqn.params["cond_jaxpr"])
        body, body_closed = _compat.open_jaxpr(eqn.params["body_jaxpr"])
        asked, held, start = values[:n], values[n : n + m], values[n + m :]
        carried = [v.axis is not None for v in start]
        while True:
            outer = [v.axis is not None for v in asked], [v.axis is not None for v in held]
            (each_stops,) = _depend(asks, [*[False] * len(asks_closed), *outer[0], *carried])
            found = _depend(body, [*[False] * len(body_closed), *outer[1], *carried])
            wider = [a or b or each_stops for a, b in zip(carried, found, strict=True)]
            if wider == carried:
                break
            carried = wider
        start = [self._fit(v, is_mapped) for v, is_mapped in zip(start, carried, strict=True)]

        def mapped(carry: Sequence) -> list[_Value]:
            return [
                _Value(a, _own(a, is_mapped)) for a, is_mapped in zip(carry, carried, strict=True)
            ]

        def on(carry: Sequence) -> jax.Array:
            return self.run(asks, asks_closed, [*asked, *mapped(carry)])[0].array

        def step(carry: list) -> list:
            outs = self.run(body, body_closed, [*held, *mapped(carry)])
            after = [
                self._fit(v, is_mapped).array for v, is_mapped in zip(outs, carried, strict=True)
            ]
            if not each_stops:
                return after
            going = on(carry)
            return [
                jnp.where(
                    going.reshape([-1 if i == behind(a.ndim - 1) else 1 for i in range(a.ndim)]),
                    a,
                    b,
                )
                for a, b in zip(after, carry, strict=True)
            ]

        last = lax.while_loop(lambda carry: on(carry).any(), step, [v.array for v in start])
        return mapped(last)

    def _fit(self, value: _Value, is_mapped: bool) -> _Value:
        if not is_mapped:
            return value
        array = _aligned(value, self.size)
        return _Value(array, _own(array, True))


def _own(array: Any, is_mapped: bool) -> int | None:
    return behind(array.ndim - 1) if is_mapped else None


def _row(value: _Value) -> _Value:
    """Rows of a scan with the mapped axis in its place in every row."""
    if value.axis is None:
        return value
    place = 1 + behind(value.array.ndim - 2)
    return _Value(jnp.moveaxis(value.array, value.axis, place), place)


def _depend(jaxpr: Any, mapped: Sequence[bool]) -> list[bool]:
    """Which results of a program depend on the mapped ones among its inputs."""
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    reached = {v for v, is_mapped in zip(inputs, mapped, strict=True) if is_mapped}

    def is_reached(atom: Any) -> bool:
        return not isinstance(atom, _compat.Literal) and atom in reached

    for eqn in jaxpr.eqns:
        if any(map(is_reached, eqn.invars)):
            reached.update(eqn.outvars)
    return list(map(is_reached, jaxpr.outvars))


def _reshape(eqn: Any, values: list[_Value]) -> Any:
    """A reshape that leaves the first axis as it is; None for others."""
    value, new = values[0], eqn.params["new_sizes"]
    if len(values) > 1 or value.axis != 1 or not new or eqn.params["dimensions"] is not None:
        return None
    first, size = value.array.shape[:2]
    return value.array.reshape(first, size, *new[1:]) if new[0] == first else None


def _elementwise(eqn: Any, values: list[_Value]) -> Any:
    """Operands of one shape, or single numbers; None for others."""
    shape = eqn.outvars[0].aval.shape
    if not shape or any(v.aval.shape not in ((), shape) for v in eqn.invars):
        return None
    if any(
        v.axis is not None and not a.aval.shape for v, a in zip(values, eqn.invars, strict=True)
    ):
        return None
    size = next(v.array.shape[v.axis] for v in values if v.axis is not None)
    arrays = [
        _aligned(v, size) if a.aval.shape else v.array
        for v, a in zip(values, eqn.invars, strict=True)
    ]
    return _compat.bind(eqn, *arrays)[0]
