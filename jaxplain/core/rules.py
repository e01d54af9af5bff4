"""Rules, the view of an operation that a rule gets, and how a rule takes its place.

A *rule* is a hashable callable ``rule(op, g) -> signals``: ``g`` is the signal at the operation's
output, ``op`` a :class:`BoundOp`, and the result has one signal for each active input, or None for
one that gets none. It must be built from differentiable JAX operations, so that explanations are
differentiable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxplain.core import _compat
from jaxplain.core.affine import Chain, Run, fan_in, weight_axes
from jaxplain.core.live import Part, through_product
from jaxplain.core.operations import Operation

Rule = Callable[..., tuple]


def pass_rule(op: BoundOp, g: jax.Array) -> tuple:
    """The signal passes unchanged (each unit has one child); a broadcast input gets its sum."""
    for eqn in reversed(op.operation.moves):
        shape = _compat.shape_of(eqn.invars[0].aval)
        move = jax.linear_transpose(functools.partial(_compat.bind, eqn), shape)
        (g,) = move([g.astype(shape.dtype)])
    return tuple(unbroadcast(g, a) for a in op.inputs)


def gradient_rule(op: BoundOp, g: jax.Array) -> tuple:
    """The plain gradient. Operations under this rule are differentiated as they are."""
    return op.vjp(g)


def unbroadcast(g: jax.Array, like: jax.Array) -> jax.Array:
    """Sum a signal over the axes along which ``like`` was broadcast."""
    if g.shape == like.shape:
        return g
    lead = g.ndim - like.ndim
    axes = tuple(range(lead)) + tuple(
        i + lead for i, n in enumerate(like.shape) if n == 1 and g.shape[i + lead] != 1
    )
    return g.sum(axes).reshape(like.shape)


class BoundOp:
    """An operation with the values it had in the forward pass, as a rule sees it.

    Attributes:
        kind, name: what it is.
        source: the user's line.
        operation: the static description.
        inputs: the active inputs' values.
        constants: the other inputs' values.
        output: the output's value.
        low: the proven lower bound of all inputs.
        nonnegative: whether that is at least 0.

    Linear operations also have ``a`` (the input), ``weight``, ``bias``, :meth:`map`,
    :meth:`transpose` and :meth:`pull`. The affine chain behind the layer (batch norm) is folded
    into ``weight`` and ``bias``; ``bias`` broadcasts to the output and is None where there is none.
    Sums and average pools have their constant factor as ``weight``.
    """

    def __init__(
        self,
        op: Operation,
        inputs: tuple,
        constants: tuple,
        output: jax.Array,
        chain: Chain | None,
        extras: tuple,
        part: Part | None = None,
    ):
        """``part`` is the part of the operation that the values are of; None for all of it."""
        self.operation, self.inputs, self.output = op, inputs, output
        self.kind, self.name, self.source = op.kind, op.name, op.source
        self.low, self.nonnegative = op.low, op.low >= 0
        self.constants, self._chain, self._extras = constants, chain, extras
        self._part = part

    def vjp(self, g: jax.Array) -> tuple:
        """The plain gradient."""

        def forward(*inputs: jax.Array) -> jax.Array:
            return self.operation.evaluate(inputs, self.constants)[0]

        return jax.vjp(forward, *self.inputs)[1](g.astype(self.output.dtype))

    def once_there_is(self, g: jax.Array) -> tuple[BoundOp, jax.Array]:
        """The same, with a kernel that is there only when the signal ``g`` is, and the signal.

        What a rule makes of the kernel is then made when it is needed, and not for all layers at
        once.
        """
        if not self.operation.has_kernel:
            return self, g
        kernel, g = jax.lax.optimization_barrier((self.constants[0], g))
        constants = (kernel, *self.constants[1:])
        given = self.operation, self.inputs, constants, self.output
        return BoundOp(*given, self._chain, self._extras, self._part), g

    @property
    def a(self) -> jax.Array:
        return self.inputs[0]

    @functools.cached_property
    def _affine(self) -> tuple[Any, Any]:
        if self._chain is None:
            return None, None
        values = dict(zip(self._chain.variables, self._extras, strict=True))
        scale, bias = self._chain.affine(values, self.output.dtype)
        return self._own_channels(scale), self._own_channels(bias)

    def _own_channels(self, values: Any) -> Any:
        """Of values by channel those of the part that this is."""
        if self._part is None or values is None or not jnp.ndim(values):
            return values
        axes = self._channel_axes
        shape = [self.operation.output.aval.shape[i] for i in axes]
        return values.reshape(shape)[tuple(slice(*self._part[i]) for i in axes)].reshape(-1)

    @property
    def _channel_axes(self) -> range:
        # What differs by channel was found along the channel axes, so there are some.
        chain = cast(Chain, self._chain)
        return range(cast(int, chain.axis), cast(int, chain.axis) + chain.axes)

    @functools.cached_property
    def weight(self) -> jax.Array:
        scale = self._affine[0]
        if not self.operation.has_kernel:
            return jnp.asarray(1 if scale is None else scale, self.output.dtype)
        weight = self.constants[0]
        return weight if scale is None else self._by_channel(weight, scale)

    @functools.cached_property
    def outgoing_weight(self) -> jax.Array:
        """The weight, its sign turned where the norm that alone reads it has a negative scale."""
        sign = self._sign
        return self.weight if sign is None else self._by_channel(self.weight, sign)

    @functools.cached_property
    def outgoing_total(self) -> jax.Array:
        """``map(a, outgoing_weight)``, read off the output of the forward pass."""
        z, sign = self.total(bias=False), self._sign
        if sign is None:
            return z
        return z * (self._along_channels(sign) if jnp.ndim(sign) else sign.astype(z.dtype))

    @property
    def _sign(self) -> Any:
        if self._chain is None or not self._chain.beyond:
            return None
        values = dict(zip(self._chain.variables, self._extras, strict=True))
        return self._own_channels(self._chain.sign(values, self.output.dtype))

    @property
    def fan_in(self) -> int:
        """How many inputs each output has."""
        return fan_in(self.operation)

    def _by_channel(self, weight: jax.Array, factor: jax.Array) -> jax.Array:
        if jnp.ndim(factor) == 0:
            return weight * jnp.asarray(factor, weight.dtype)
        axes = weight_axes(self.operation)
        shape = [n if i in axes else 1 for i, n in enumerate(weight.shape)]
        return weight * factor.reshape(shape).astype(weight.dtype)

    @functools.cached_property
    def bias(self) -> jax.Array | None:
        bias = self._affine[1]
        if self._chain is None or bias is None:
            return None
        if jnp.ndim(bias) == 0:
            return jnp.asarray(bias, self.output.dtype)
        return self._along_channels(bias)

    def _along_channels(self, values: jax.Array) -> jax.Array:
        axes = self._channel_axes
        shape = [n if i in axes else 1 for i, n in enumerate(self.output.shape)]
        return values.reshape(shape).astype(self.output.dtype)

    @property
    def affine_scale(self) -> jax.Array | None:
        """The scale that is folded into ``weight``, as it broadcasts to the output."""
        scale = self._affine[0]
        if scale is None or jnp.ndim(scale) == 0:
            return None if scale is None else jnp.asarray(scale, self.output.dtype)
        return self._along_channels(scale)

    def total(self, bias: bool = True) -> jax.Array:
        """``map(a, weight)``, with the bias or without, read off the output of the forward pass."""
        scale, added = self.affine_scale, self.bias if bias else None
        z = self.output if scale is None else self.output * scale
        return z if added is None else z + added

    def map(self, a: jax.Array, w: jax.Array) -> jax.Array:
        """The layer's bilinear part for any input and weight of the right shapes."""
        if not self.operation.has_kernel:
            return self.operation.evaluate((a,), self.constants)[0] * w
        return self.operation.evaluate((a,), (w, *self.constants[1:]))[0]

    def transpose(self, w: jax.Array, g: jax.Array) -> jax.Array:
        """The signal at the input: the transpose of ``a -> map(a, w)`` applied to ``g``."""
        _, transposed = jax.vjp(lambda a: self.map(a, w), self.a)
        return transposed(g.astype(self.output.dtype))[0]

    def pull(self, g: jax.Array) -> jax.Array:
        """``transpose(weight, g)``, the signal scaled in place of the kernel.

        Scaled kernels need no signal: a compiler may hold those of all layers at once.
        """
        scale = self.affine_scale
        if scale is None or not self.operation.has_kernel:
            return self.transpose(self.weight, g)
        return self.transpose(self.constants[0], g * scale)


class DiagonalOp(BoundOp):
    """Scales and biases that fold into no layer, as a linear layer with a diagonal weight.

    ``a`` is the value that they begin with; ``run`` says what is known of them.
    """

    def __init__(self, op: Operation, inputs: tuple, output: jax.Array, run: Run, extras: tuple):
        super().__init__(op, extras[:1], (), output, None, ())
        self.kind, self.name, self.run = "linear", "affine", run
        self.low, self.nonnegative = run.low, run.low >= 0
        self._last = inputs[0]
        values = dict(zip(run.variables, extras, strict=True))
        self._scale, self._bias = run.affine(values, output.dtype)

    @property
    def weight(self) -> jax.Array:
        return jnp.asarray(1 if self._scale is None else self._scale, self.output.dtype)

    @property
    def outgoing_weight(self) -> jax.Array:
        return self.weight

    @property
    def bias(self) -> jax.Array | None:
        return None if self._bias is None else jnp.asarray(self._bias, self.output.dtype)

    @property
    def fan_in(self) -> int:
        return 1

    def total(self, bias: bool = True) -> jax.Array:
        return self.output if bias else self.map(self.a, self.weight)

    def map(self, a: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.broadcast_to(a * w, self.output.shape)

    def transpose(self, w: jax.Array, g: jax.Array) -> jax.Array:
        return unbroadcast(g * w, self._last)

    def passed(self, g: jax.Array) -> tuple:
        """The signal unchanged."""
        return (unbroadcast(g, self._last),)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def apply_rule(
    op: Operation,
    rule: Rule,
    view: Chain | Run | None,
    part: Part | None,
    inputs: tuple,
    constants: tuple,
    extras: tuple,
) -> list:
    """The operation's outputs, with ``rule`` in place of its gradient.

    ``part`` is the part of the output of a dense layer beyond which there is no signal.
    """
    return op.evaluate(inputs, constants)


def _forward(op, rule, view, part, inputs, constants, extras):
    outs = op.evaluate(inputs, constants)
    return outs, (inputs, constants, extras, outs[0])


def _backward(op, rule, view, part, residuals, cotangents):
    inputs, constants, extras, output = residuals
    g, whole, own = cotangents[0], inputs, None
    if part is not None:
        own, of_weight = (
            cast(Part, through_product(op.equations[-1], v, part))
            for v in (op.inputs[0], op.constants[0])
        )
        inputs, constants = (_cut(inputs[0], own),), (_cut(constants[0], of_weight),)
        output, g = _cut(output, part), _cut(g, part)
    if isinstance(view, Run):
        bound: BoundOp = DiagonalOp(op, inputs, output, view, extras)
    else:
        bound = BoundOp(op, inputs, constants, output, view, extras, part)
    signals = rule(bound, g)
    if len(signals) != len(inputs) or any(
        s is not None and s.shape != a.shape for s, a in zip(signals, inputs, strict=True)
    ):
        raise ValueError(
            f"the rule {rule!r} returned signals of shapes {[jnp.shape(s) for s in signals]} for "
            f"the operation {op.name!r}, whose inputs have shapes {[a.shape for a in inputs]}"
        )
    # None is no signal: what stands before is not differentiated at all.
    signals = tuple(
        None if s is None else s.astype(a.dtype) for s, a in zip(signals, inputs, strict=True)
    )
    if own is not None:
        signals = tuple(s if s is None else _fill(s, own, whole[0].shape) for s in signals)
    none = tuple(None for _ in op.constants), tuple(None for _ in extras)
    return signals, *none


def _cut(values: jax.Array, part: Part) -> jax.Array:
    return values[tuple(slice(low, high) for low, high in part)]


def _fill(values: jax.Array, part: Part, shape: tuple[int, ...]) -> jax.Array:
    """A part, with zeros around it."""
    pads = [(low, n - high, 0) for (low, high), n in zip(part, shape, strict=True)]
    return jax.lax.pad(values, jnp.zeros((), values.dtype), pads)


apply_rule.defvjp(_forward, _backward)
