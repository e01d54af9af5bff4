"""Which scales and biases after a linear layer belong to it (batch norm, mean subtraction).

Inference batch norm is an affine map of each channel. A negative scale flips which weights of the
convolution before it are excitatory, and LRP's rules want the merged weight and bias, so both are
read off here at trace time and folded in by the rules' view of the linear layer.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from jaxplain.core import _compat


@dataclasses.dataclass(frozen=True)
class Step:
    """One link of a chain: ``y`` becomes ``y * c``, ``y / c``, ``y +- c``, ``c - y`` or ``-y``."""

    action: str
    value: Any = None  # a variable, a number, or None for "neg"


@dataclasses.dataclass(frozen=True)
class Chain:
    """The affine steps after a linear operation; ``axis`` is its output's channel axis."""

    axis: int | None
    steps: tuple[Step, ...]

    @property
    def variables(self) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(s.value for s in self.steps if isinstance(s.value, _compat.Var)))

    def affine(self, values: dict, dtype: Any) -> tuple[Any, Any]:
        """Scale and bias, each a number, a ``(channels,)`` array, or None where there is none."""
        scale = bias = None
        for step in self.steps:
            c = step.value
            if isinstance(c, _compat.Var):
                c = jnp.asarray(values[c], dtype).reshape(-1)
                c = c[0] if c.shape == (1,) else c
            if step.action in ("mul", "div", "neg", "rsub"):
                factor = (
                    -1.0 if step.action in ("neg", "rsub") else c if step.action == "mul" else 1 / c
                )
                scale = factor if scale is None else scale * factor
                bias = None if bias is None else bias * factor
            if step.action in ("add", "sub", "rsub"):
                term = -c if step.action == "sub" else c
                bias = term if bias is None else bias + term
        return scale, bias


def channel_axis(op: Any) -> int | None:
    """The channel axis of a convolution's or dense layer's output, None for other operations."""
    eqn = op.equations[0]
    if op.name == "conv":
        return eqn.params["dimension_numbers"].out_spec[1]
    if op.name != "dense":
        return None
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    weight_left = eqn.invars[0] not in op.inputs
    free = [_free(eqn.invars[0], left, left_batch), _free(eqn.invars[1], right, right_batch)]
    own = free[0] if weight_left else free[1]
    start = len(left_batch) + (0 if weight_left else len(free[0]))
    wide = [i for i, n in enumerate(own) if n > 1]
    if len(wide) > 1 or not own:
        return None
    return start + (wide[0] if wide else 0)


def _free(v: Any, contracted: Any, batch: Any) -> list[int]:
    return [n for i, n in enumerate(v.aval.shape) if i not in contracted and i not in batch]


def weight_axis(op: Any) -> int:
    """The output-channel axis of the weight that belongs to :func:`channel_axis`."""
    eqn = op.equations[0]
    if op.name == "conv":
        return eqn.params["dimension_numbers"].rhs_spec[0]
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    if eqn.invars[0] not in op.inputs:
        v, taken = eqn.invars[0], {*left, *left_batch}
    else:
        v, taken = eqn.invars[1], {*right, *right_batch}
    free = [i for i in range(len(v.aval.shape)) if i not in taken]
    return next((i for i in free if v.aval.shape[i] > 1), free[0])


def find_chain(op: Any, consumers: dict, producers: dict, outputs: set, facts: dict) -> Chain:
    """Follow the single consumers of a linear operation as long as they are affine by channel."""
    axis = start = channel_axis(op)
    steps: list[Step] = []
    value = op.output
    while value not in outputs and len(consumers.get(value, ())) == 1:
        (user,) = consumers[value]
        eqn = user.equations[-1]
        if user.kind == "structural" and user.name in (
            "name",
            "convert_element_type",
            "copy",
            "reshape",
            "squeeze",
            "expand_dims",
            "transpose",
            "broadcast_in_dim",
        ):
            if axis is not None:
                axis = _follow(eqn, axis)
                if axis is None:
                    break
        elif user.kind in ("scale", "bias") and len(user.equations) == 1:
            step = _step(eqn, value, axis, producers, facts)
            if step is None:
                break
            steps.append(step)
        else:
            break
        value = user.output
    return Chain(start, tuple(steps))


def _follow(eqn: Any, axis: int) -> int | None:
    """Where a channel axis goes in a change of shape, None where it does not stay one axis."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    name = eqn.primitive.name
    if name in ("name", "convert_element_type", "copy"):
        return axis
    if name == "transpose":
        return eqn.params["permutation"].index(axis)
    if name == "broadcast_in_dim":
        if math.prod(old) != math.prod(new):
            return None
        return eqn.params["broadcast_dimensions"][axis]
    before = math.prod(old[:axis])
    for i, n in enumerate(new):
        if n == old[axis] and math.prod(new[:i]) == before:
            return i
    return None


def _step(eqn: Any, value: Any, axis: int | None, producers: dict, facts: dict) -> Step | None:
    name = eqn.primitive.name
    if name == "neg":
        return Step("neg")
    first = eqn.invars[0] is value
    action = name if first or name in ("mul", "add") else "rsub" if name == "sub" else None
    if action not in ("mul", "div", "add", "add_any", "sub", "rsub"):
        return None
    action = "add" if action == "add_any" else action
    other = eqn.invars[1] if first else eqn.invars[0]
    number = other.val if isinstance(other, _compat.Literal) else None
    if number is None and other in facts and facts[other].static is not None:
        number = facts[other].static
    if number is not None:
        return Step(action, float(number)) if jnp.ndim(number) == 0 else None
    other = _per_channel(other, axis, producers)
    return None if other is None else Step(action, other)


def _per_channel(v: Any, axis: int | None, producers: dict) -> Any:
    """The variable whose only extent is the channel axis, looking through broadcasts."""
    wide = [i for i, n in enumerate(v.aval.shape) if n > 1]
    if not wide or wide == [axis]:
        return v
    eqn = producers.get(v)
    if eqn is None or eqn.primitive.name not in (
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
    ):
        return None
    source = eqn.invars[0]
    if isinstance(source, _compat.Literal):
        return None
    if eqn.primitive.name != "broadcast_in_dim":
        return _per_channel(source, axis, producers)
    dims = eqn.params["broadcast_dimensions"]
    if axis in dims:
        return _per_channel(source, dims.index(axis), producers)
    return source if math.prod(source.aval.shape) == 1 else None
