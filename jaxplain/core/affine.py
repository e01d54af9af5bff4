"""Affine steps behind a layer, and which axes of a layer and its weight are its channels.

A rule's view of a linear layer has the steps folded in (`Chain`); where no linear layer stands
before them, they are a diagonal linear layer of their own (`Run`).
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
    value: Any = None  # a variable, a number, or None for "neg" and "double"

    @property
    def scales(self) -> bool:
        return self.action in ("mul", "div", "neg", "rsub", "double")

    @property
    def shifts(self) -> bool:
        return self.action in ("add", "sub", "rsub")

    @property
    def varies(self) -> bool:
        """Whether it scales different units differently, or by a number known at run time only."""
        return self.scales and isinstance(self.value, _compat.Var)

    def apply(self, scale: Any, bias: Any, c: Any) -> tuple[Any, Any]:
        """The affine map ``(scale, bias)`` after this step, whose value is ``c``."""
        if self.scales:
            negative = self.action in ("neg", "rsub")
            factor = {"mul": c, "div": None, "double": 2.0}.get(
                self.action, -1.0 if negative else c
            )
            factor = 1 / c if factor is None else factor
            scale = factor if scale is None else scale * factor
            bias = None if bias is None else bias * factor
        if self.shifts:
            term = -c if self.action == "sub" else c
            bias = term if bias is None else bias + term
        return scale, bias


def _variables(steps: tuple[Step, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(s.value for s in steps if isinstance(s.value, _compat.Var)))


@dataclasses.dataclass(frozen=True)
class Chain:
    """The affine steps after a linear operation; ``axis`` is its output's channel axis.

    Where channels lie in several axes, it is the first of ``axes``.
    ``beyond`` are the scales behind a norm that follows: of them only the sign matters here.
    ``ops`` are the operations that the steps come from.
    """

    axis: int | None
    steps: tuple[Step, ...]
    beyond: tuple[Step, ...] = ()
    ops: tuple[Any, ...] = ()
    axes: int = 1

    @property
    def variables(self) -> tuple[Any, ...]:
        return _variables(self.steps + self.beyond)

    def affine(self, values: dict, dtype: Any) -> tuple[Any, Any]:
        """Scale and bias, each a number, a ``(channels,)`` array, or None where there is none."""
        return _compose(self.steps, values, dtype)

    def sign(self, values: dict, dtype: Any) -> Any:
        """The sign of the scales behind the norm, 1 for 0; None where there are none."""
        scale = _compose(self.beyond, values, dtype)[0]
        return None if scale is None else jnp.where(jnp.asarray(scale, dtype) < 0, -1, 1)


def _compose(steps: tuple[Step, ...], values: dict, dtype: Any) -> tuple[Any, Any]:
    scale = bias = None
    for step in steps:
        c = step.value
        if isinstance(c, _compat.Var):
            c = jnp.asarray(values[c], dtype).reshape(-1)
            c = c[0] if c.shape == (1,) else c
        scale, bias = step.apply(scale, bias, c)
    return scale, bias


@dataclasses.dataclass(frozen=True)
class Run:
    """Scales and biases that follow each other and fold into no layer: a diagonal linear layer.

    Attributes:
        source: the value that the run begins with.
        steps: its steps; affine_ops: the operations that they come from.
        after_norm: whether a norm computes the source.
    """

    source: Any
    steps: tuple[Step, ...]
    affine_ops: tuple[Any, ...]
    after_norm: bool
    low: float

    @property
    def variables(self) -> tuple[Any, ...]:
        return (self.source, *_variables(self.steps))

    @property
    def varies(self) -> bool:
        return any(s.varies for s in self.steps)

    @property
    def shifts(self) -> bool:
        return any(s.shifts for s in self.steps)

    @property
    def positive_number(self) -> bool:
        """Whether all it does is multiply by a known positive number."""
        return not self.shifts and all(
            not isinstance(s.value, _compat.Var) and s.action != "neg" and (s.value or 2.0) > 0
            for s in self.steps
        )

    def affine(self, values: dict, dtype: Any) -> tuple[Any, Any]:
        """Scale and bias, numbers or arrays that broadcast to the value; None for none."""
        scale = bias = None
        for step in self.steps:
            c = step.value
            c = jnp.asarray(values[c], dtype) if isinstance(c, _compat.Var) else c
            scale, bias = step.apply(scale, bias, c)
        return scale, bias


def channel_span(op: Any) -> tuple[int, int] | None:
    """The first of the channel axes of a convolution's or dense layer's output, and their number.

    A dense layer may give its channels in several axes, as heads and features. None for other
    operations.
    """
    eqn = op.equations[0]
    if op.name == "conv":
        return eqn.params["dimension_numbers"].out_spec[1], 1
    if op.name != "dense":
        return None
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    weight_left = eqn.invars[0] not in op.inputs
    free = [_free(eqn.invars[0], left, left_batch), _free(eqn.invars[1], right, right_batch)]
    own = free[0] if weight_left else free[1]
    start = len(left_batch) + (0 if weight_left else len(free[0]))
    wide = [i for i, n in enumerate(own) if n > 1]
    if not own:
        return None
    if len(wide) > 1:
        axes = weight_axes(op)
        return (start, len(own)) if axes == list(range(axes[0], axes[-1] + 1)) else None
    return start + (wide[0] if wide else 0), 1


def _free(v: Any, contracted: Any, batch: Any) -> list[int]:
    return [n for i, n in enumerate(v.aval.shape) if i not in contracted and i not in batch]


def weight_axes(op: Any) -> list[int]:
    """The output-channel axes of the weight that belong to :func:`channel_span`."""
    eqn = op.equations[0]
    if op.name == "conv":
        return [eqn.params["dimension_numbers"].rhs_spec[0]]
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    if eqn.invars[0] not in op.inputs:
        v, taken = eqn.invars[0], {*left, *left_batch}
    else:
        v, taken = eqn.invars[1], {*right, *right_batch}
    free = [i for i in range(len(v.aval.shape)) if i not in taken]
    wide = [i for i in free if v.aval.shape[i] > 1]
    return free if len(wide) > 1 else wide or free[:1]


def fan_in(op: Any) -> int:
    """How many inputs each output of a linear operation has; 1 of one without weights."""
    if not op.has_kernel:
        return 1
    eqn = op.equations[0]
    if op.name == "conv" or eqn.primitive.name != "dot_general":
        shape = eqn.invars[1].aval.shape
        return math.prod(shape) // shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    axes = eqn.params["dimension_numbers"][0][0]
    return math.prod(eqn.invars[0].aval.shape[i] for i in axes)
