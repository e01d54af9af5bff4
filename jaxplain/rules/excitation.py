"""Backward rules of Excitation Backprop.

With signal ``P`` at a linear layer's outputs, inputs ``a`` and weights ``w``, the paper's rule is

    P_in = a * (w+^T (P / (a w+)))          (Zhang et al. 2018, Eqs. 6, 17, 18)

with a share of 0 where the denominator is 0, and without the bias. Where ``a`` is not provably
non-negative the signed form uses the contributions ``(a w)+ = a+ w+ + a- w-`` in place of
``a w+``; where ``a >= 0`` the two are equal.

Reference: Zhang, Bargal, Lin, Brandt, Shen and Sclaroff, *Top-down neural attention by
excitation backprop*, IJCV 2018.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxplain import core
from jaxplain.core import BoundOp, Rule, RuleSet, pass_rule
from jaxplain.core.numerics import negative, positive, safe_divide
from jaxplain.core.rules import DiagonalOp, unbroadcast
from jaxplain.rules._form import Form, require_form

__all__ = [
    "Diagonal",
    "Excitation",
    "Gate",
    "ResidualShare",
    "excitation_rules",
    "first_maximum",
]

#: How an addition shares its signal, see `ResidualShare`.
Shares = Literal["excitation", "signed", "magnitude", "branch"]
SHARES: tuple[Shares, ...] = get_args(Shares)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Excitation:
    """The linear layers' rule.

    Attributes:
        form: ``"signed"`` uses ``(a w)+`` where ``a`` may be negative; ``"plain"`` uses ``a w+``
            whatever the sign of ``a``.
        lower_bound: whether inputs with a known finite negative lower bound are shifted to be
            non-negative (Eq. 20).
        normalise: whether to divide by the sum over the children (``Z_i`` of Eq. 6).
        contrast: 1 for the layer, -1 for its negated weights, 0 for their difference (Eqs. 9 to
            12).
    """

    form: Form = "signed"
    lower_bound: bool = False
    normalise: bool = True
    contrast: Literal[1, 0, -1] = 1

    def __post_init__(self) -> None:
        require_form(self.form)
        if self.contrast not in (1, 0, -1):
            raise ValueError(f"contrast must be 1, 0 or -1, not {self.contrast!r}.")

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        signs = (1, -1) if self.contrast == 0 else (self.contrast,)
        parts = [self._share(op, g, sign) for sign in signs]
        return (parts[0] if len(parts) == 1 else parts[0] - parts[1],)

    def accepts(self, op: core.Operation) -> bool | str:
        if op.kind != "linear":
            return "is no linear layer, which the excitation rule is for"
        if self.lower_bound and not math.isfinite(op.low):
            return (
                "reads values without a known lower bound, which lower_bound=True needs (sigmoid, "
                "tanh, ELU, GELU and the like have one); explain a layer above it, or leave "
                "lower_bound out"
            )
        return True

    def _share(self, op: BoundOp, g: jax.Array, sign: int) -> jax.Array:
        # The parts of the weights are made when the signal is here: made before, as a compiler may
        # do with what needs no signal, those of all layers would be in memory at once.
        op, g = op.once_there_is(g)
        w = op.outgoing_weight
        a, w, nonnegative = op.a, sign * w, op.nonnegative
        if self.lower_bound and not nonnegative:
            a, nonnegative = a - jnp.asarray(op.low, a.dtype), True
        if nonnegative or self.form == "plain":
            parts = [(a, positive(w))]
        else:
            parts = [(positive(a), positive(w)), (negative(a), negative(w))]
        if self.normalise:
            whole = len(parts) > 1 and op.fan_in >= _WIDE and jnp.finfo(w.dtype).bits >= 32
            z = _excited(op, w, sign) if whole else _total(op.map(a, w) for a, w in parts)
            g = safe_divide(g, z)
        return _total(a * op.transpose(w, g) for a, w in parts)


#: From so many inputs on, the sum of the excitatory contributions is taken from the output. With
#: few, all may be inhibitory, and their sum would be a rounding error in place of 0.
_WIDE = 64


def _excited(op: BoundOp, w: jax.Array, sign: int) -> jax.Array:
    """The sum of the contributions ``(a w)+``, from those of ``a w`` and of ``|a| |w|``.

    One map instead of two, since the network has computed ``a w``.
    """
    size = op.map(jnp.abs(op.a), jnp.abs(w))
    z = (size + sign * op.outgoing_total) / 2
    return jnp.where(z > 32 * jnp.finfo(z.dtype).eps * size, z, jnp.zeros_like(z))


def _total(parts: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, parts)


@dataclasses.dataclass(frozen=True)
class Diagonal:
    """The rule of scales and biases that fold into no layer.

    A batch norm is a linear layer with one weight for each unit, under ``linear``: a unit whose
    contribution is negative gets nothing. A unit below 0, which only the signed form leads signal
    to (of a normalised image, say), has the contributions below 0 as its own. All else passes the
    signal: scales alone, biases alone, and what follows a norm.
    """

    linear: Excitation

    def __call__(self, op: DiagonalOp, g: jax.Array) -> tuple:
        run = op.run
        if not (run.varies and run.shifts and not run.after_norm):
            return op.passed(g)
        (excited,), (passed,) = self.linear(op, g), op.passed(g)
        if self.linear.form != "signed" or excited.shape != op.output.shape:
            return (excited,)
        own = (op.output < 0) & (op.map(op.a, op.weight) < 0)
        return (jnp.where(own, passed, excited),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualShare:
    """The addition's rule.

    Attributes:
        shares: ``"excitation"`` ``(a_i)+ / sum (a)+``: an addition is a linear layer with weights
            1, and this is its Eq. 6, so that a negative branch gets nothing; ``"signed"`` ``a_i /
            sum a``, Eq. 19 as printed; ``"magnitude"`` ``|a_i| / sum |a|``. The three are equal
            where no branch is negative. ``"branch"`` all to the branch with more convolutions,
            none to the skip connection (Fig. 7c).
        graph: of the traced network (``jaxplain.trace(...).graph``), for ``"branch"`` alone.
    """

    shares: Shares = "excitation"
    graph: core.Graph | None = None

    def __post_init__(self) -> None:
        if self.shares not in SHARES:
            raise ValueError(f"shares must be one of {SHARES}, not {self.shares!r}.")
        if (self.shares == "branch") != (self.graph is not None):
            raise ValueError("shares='branch' needs the network's graph; the others take none.")

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        if self.graph is not None:
            return self._to_branch(self.graph, op, g)
        sign = -1 if op.name == "sub" else 1
        values = [op.inputs[0], *(sign * v for v in op.inputs[1:])]
        if self.shares == "excitation":
            values = [positive(v) for v in values]
        if self.shares == "magnitude":
            values = [jnp.abs(v) for v in values]
        share = safe_divide(g, _total(values))
        shared = [jnp.broadcast_to(v, g.shape) * share for v in values]
        return tuple(unbroadcast(s, a) for s, a in zip(shared, op.inputs, strict=True))

    def accepts(self, op: core.Operation) -> bool | str:
        if op.kind != "add":
            return "is no addition, which the residual rule is for"
        if self.graph is None:
            return True
        depths = self.graph.branch_depths(op)
        if depths.count(max(depths)) == 1:
            return True
        return (
            "joins branches of equal depth, so residual='branch' cannot tell the skip connection; "
            "use another residual"
        )

    def _to_branch(self, graph: core.Graph, op: BoundOp, g: jax.Array) -> tuple:
        depths = graph.branch_depths(op.operation)
        chosen = depths.index(max(depths))
        return tuple(
            unbroadcast(g, a) if i == chosen else jnp.zeros_like(a) for i, a in enumerate(op.inputs)
        )


#: Attention weights below this are taken as nothing: a mask of -100 leaves some above 0.
_NO_ATTENTION = 1e-30


@dataclasses.dataclass(frozen=True)
class Gate:
    """The signal passes to the gated input, none to the gate (attention: a factor in [0, 1]).

    A product of matrices, one of them attention weights, is a linear layer of the other.
    """

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        silent = self.silences(op.operation)
        if all(silent):
            return (None,) * len(op.inputs)
        if op.name == "matmul":
            return _attend(op, g, silent.index(False))
        return tuple(
            None if none else unbroadcast(g, a) for a, none in zip(op.inputs, silent, strict=True)
        )

    def silences(self, op: core.Operation) -> tuple[bool, ...]:
        """Which inputs get no signal: the gate, and all that is within another gate."""
        if op.within_gate or op.gates is None:
            return (True,) * len(op.inputs)
        return op.gates

    def accepts(self, op: core.Operation) -> bool | str:
        weighs = op.name != "matmul" or op.gate_low >= 0
        if op.within_gate or (op.kind == "gate" and op.gates is not None and weighs):
            return True
        return (
            "has no recognisable gate (one factor between 0 and 1, such as a sigmoid's or a "
            "softmax's); explain a layer above it, or pass a rule for 'gate'"
        )


def _attend(op: BoundOp, g: jax.Array, value: int) -> tuple:
    a, z, pull = attended(op, value)
    signal = a * pull(safe_divide(g.astype(z.dtype), z))[0]
    return (signal, None) if value == 0 else (None, signal)


def attended(op: BoundOp, value: int) -> tuple[jax.Array, jax.Array, Callable]:
    """Attention as a linear layer of its excited values: these, its outputs and its transpose.

    Args:
        op: the product of values and attention weights.
        value: which of its inputs are the values, 0 or 1.
    """
    weights = op.inputs[1 - value]
    weights = jnp.where(weights < _NO_ATTENTION, jnp.zeros_like(weights), weights)

    def product(v: jax.Array) -> jax.Array:
        inputs = (v, weights) if value == 0 else (weights, v)
        return op.operation.evaluate(inputs, op.constants)[0]

    a = positive(op.inputs[value])
    return (a, *jax.vjp(product, a))


PASSING: dict[str, Rule] = dict.fromkeys(("scale", "bias", "activation", "normalise"), pass_rule)
REQUIRED = (*PASSING, "linear", "add", "gate")


def excitation_rules(
    *,
    form: Form = "signed",
    residual: ResidualShare | None = None,
    lower_bound: bool = False,
    normalise: bool = True,
    fold_scales: bool = True,
    contrast: Literal[1, 0, -1] = 1,
    classifier: str = "last_linear",
) -> RuleSet:
    """The rule set of Excitation Backprop.

    Args:
        form, lower_bound, normalise: of the linear layers' rule, see `Excitation`.
        residual: the rule of additions; None for ``ResidualShare()``.
        fold_scales: whether batch norms are folded into the layers before them.
        contrast: of the rule at the classifier, see `Excitation`; 1 everywhere else.
        classifier: the layer, by name, to which ``contrast`` applies.

    Returns:
        A `RuleSet` for `jaxplain.with_rules` and `jaxplain.coverage`.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> network = jaxplain.with_rules(lambda a: a @ jnp.array([[3.0], [1.0], [-2.0]]),
    ...                               jaxplain.rules.excitation_rules())
    >>> jax.vjp(network, jnp.ones((1, 3)))[1](jnp.ones((1, 1)))[0].tolist()
    [[0.75, 0.25, 0.0]]
    """
    linear = Excitation(form=form, lower_bound=lower_bound, normalise=normalise)
    special = {} if contrast == 1 else {classifier: dataclasses.replace(linear, contrast=contrast)}
    return RuleSet(
        {
            **PASSING,
            "linear": linear,
            "affine": Diagonal(dataclasses.replace(linear, lower_bound=False)),
            "add": residual or ResidualShare(),
            "gate": Gate(),
            "max_pool": first_maximum,
        },
        overrides=special,
        requires=REQUIRED,
        fold=fold_scales,
    )


def first_maximum(op: BoundOp, g: jax.Array) -> tuple:
    """A max pool's signal goes to the first of its greatest inputs, as a windowed pool's does.

    The gradients of ``jnp.max`` and ``jnp.maximum`` share it among all that are equal, and those of
    the least likewise.
    """
    equation = op.operation.equations[-1]
    name = equation.primitive.name
    if name in ("max", "min"):
        first, second = op.inputs
        won = first >= second if name == "max" else first <= second
        return jnp.where(won, g, 0), jnp.where(won, 0, g)
    if name not in ("reduce_max", "reduce_min"):
        return op.vjp(g)
    a, axes = op.a, equation.params["axes"]
    kept = tuple(i for i in range(a.ndim) if i not in axes)
    order = (*kept, *axes)
    turned = a.transpose(order)
    rows = turned.reshape(*(a.shape[i] for i in kept), -1)
    place = rows.argmax(-1) if name == "reduce_max" else rows.argmin(-1)
    won = jax.nn.one_hot(place, rows.shape[-1], dtype=g.dtype) * g[..., None]
    back = tuple(order.index(i) for i in range(a.ndim))
    return (won.reshape(turned.shape).transpose(back),)
