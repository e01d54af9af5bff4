"""Backward rules of Excitation Backprop and of its deterministic ancestor.

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

import jax
import jax.numpy as jnp

from jaxplain import core
from jaxplain.core import BoundOp, RuleSet, pass_rule

__all__ = ["Excitation", "ResidualShare", "excitation_rules", "gate", "winner", "winner_rules"]


def safe_divide(p: jax.Array, z: jax.Array) -> jax.Array:
    """``p / z``, 0 where ``z`` is 0; safe to differentiate there too."""
    zero = z == 0
    return jnp.where(zero, jnp.zeros_like(p), p / jnp.where(zero, jnp.ones_like(z), z))


def _positive(v: jax.Array) -> jax.Array:
    return jnp.maximum(v, jnp.zeros_like(v))


def _negative(v: jax.Array) -> jax.Array:
    return jnp.minimum(v, jnp.zeros_like(v))


@dataclasses.dataclass(frozen=True)
class Excitation:
    """The linear layers' rule.

    Attributes:
      inputs: ``"signed"`` uses ``(a w)+`` where ``a`` may be negative; ``"plain"`` uses ``a w+``
        whatever the sign of ``a``.
      lower_bound: shift inputs with a known finite negative lower bound to be non-negative (Eq. 20).
      normalise: whether to divide by the sum over the children (``Z_i`` of Eq. 6).
      contrast: 1 for the layer, -1 for its negated weights, 0 for their difference (Eqs. 9 to 12).
    """

    inputs: str = "signed"
    lower_bound: bool = False
    normalise: bool = True
    contrast: int = 1

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        if self.contrast == 0:
            return (self._share(op, g, op.weight) - self._share(op, g, -op.weight),)
        return (self._share(op, g, op.weight if self.contrast == 1 else -op.weight),)

    def _share(self, op: BoundOp, g: jax.Array, w: jax.Array) -> jax.Array:
        a, nonnegative = op.a, op.nonnegative
        if self.lower_bound and not nonnegative and math.isfinite(op.low):
            a, nonnegative = a - jnp.asarray(op.low, a.dtype), True
        if nonnegative or self.inputs == "plain":
            parts = [(a, _positive(w))]
        else:
            parts = [(_positive(a), _positive(w)), (_negative(a), _negative(w))]
        if self.normalise:
            g = safe_divide(g, sum(op.map(a, w) for a, w in parts))
        return sum(a * op.transpose(w, g) for a, w in parts)


@dataclasses.dataclass(frozen=True)
class ResidualShare:
    """The addition's rule (Eq. 19).

    Attributes:
      shares: ``"proportional"`` by magnitude, ``|a_i| / sum |a|``, which is Eq. 19 where no branch
        is negative; ``"signed"`` ``a_i / sum a``; ``"branch"`` all to the branch with more
        convolutions, none to the skip connection (Fig. 7c).
      graph: needed for ``"branch"`` only.
    """

    shares: str = "proportional"
    graph: core.Graph | None = None

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        if self.shares == "branch":
            return self._to_branch(op, g)
        sign = -1 if op.name == "sub" else 1
        values = [op.inputs[0], *(sign * v for v in op.inputs[1:])]
        if self.shares == "proportional":
            values = [jnp.abs(v) for v in values]
        share = safe_divide(g, functools.reduce(jnp.add, values))
        shared = [jnp.broadcast_to(v, g.shape) * share for v in values]
        return tuple(core.rules.unbroadcast(s, a) for s, a in zip(shared, op.inputs, strict=True))

    def _to_branch(self, op: BoundOp, g: jax.Array) -> tuple:
        depths = self.graph.branch_depths(op.operation)
        if depths.count(max(depths)) > 1:
            raise core.UnsupportedOperationError(
                f"the addition at {op.source} joins branches of equal depth, so residual='branch' "
                "cannot tell the skip connection; use residual='proportional'"
            )
        chosen = depths.index(max(depths))
        return tuple(
            core.rules.unbroadcast(g, a) if i == chosen else jnp.zeros_like(a)
            for i, a in enumerate(op.inputs)
        )


def gate(op: BoundOp, g: jax.Array) -> tuple:
    """The signal passes to the gated input, none to the gate (attention: a factor in [0, 1])."""
    if op.operation.within_gate:  # of another gate, which gets no signal
        return tuple(jnp.zeros_like(a) for a in op.inputs)
    gates = op.operation.gates
    if gates is None:
        raise core.UnsupportedOperationError(
            f"the product {op.name!r} of two activations at {op.source} has no recognisable gate (one "
            "factor between 0 and 1, such as a sigmoid's); explain a layer above it, or pass a "
            "rule for 'gate'"
        )
    return tuple(
        jnp.zeros_like(a) if is_gate else core.rules.unbroadcast(g, a)
        for a, is_gate in zip(op.inputs, gates, strict=True)
    )


_PASSING = {kind: pass_rule for kind in ("scale", "bias", "activation", "normalise")}
_REQUIRED = ("linear", "scale", "bias", "activation", "add", "gate", "normalise")


def excitation_rules(
    inputs: str = "signed",
    residual: ResidualShare | None = None,
    *,
    lower_bound: bool = False,
    normalise: bool = True,
    fold_scales: bool = True,
    contrast: int = 1,
    classifier: str = "last_linear",
) -> RuleSet:
    """The rule set of Excitation Backprop; ``contrast`` applies to the classifier alone.

    >>> import jax, jax.numpy as jnp, jaxplain
    >>> network = jaxplain.with_rules(lambda a: a @ jnp.array([[3.0], [1.0], [-2.0]]),
    ...                               jaxplain.rules.excitation_rules())
    >>> jax.vjp(network, jnp.ones((1, 3)))[1](jnp.ones((1, 1)))[0].tolist()
    [[0.75, 0.25, 0.0]]
    """
    linear = Excitation(inputs, lower_bound, normalise)
    special = {} if contrast == 1 else {classifier: dataclasses.replace(linear, contrast=contrast)}
    return RuleSet(
        {**_PASSING, "linear": linear, "add": residual or ResidualShare(), "gate": gate},
        overrides=special,
        requires=_REQUIRED,
        fold=fold_scales,
    )


def winner(op: BoundOp, g: jax.Array) -> tuple:
    """The whole signal of each image's winner goes to its child of greatest excitation.

    ``g`` has at most one non-zero unit an image (axis 0), and so has the result.
    """
    if op.kind == "add":
        children = [jnp.where(g != 0, jnp.broadcast_to(v, g.shape), 0) for v in op.inputs]
        best = functools.reduce(jnp.maximum, children)
        signals, left = [], g
        for v, a in zip(children, op.inputs, strict=True):
            taken = jnp.where((v == best) & (best > 0), left, jnp.zeros_like(left))
            left = left - taken
            signals.append(core.rules.unbroadcast(taken, a))
        return tuple(signals)
    a, w = op.a, op.weight
    chosen = (g != 0).astype(g.dtype)
    excitation = _positive(a) * op.transpose(_positive(w), chosen)
    if not op.nonnegative:
        excitation = excitation + _negative(a) * op.transpose(_negative(w), chosen)
    flat = excitation.reshape(len(a), -1)
    total = g.reshape(len(a), -1).sum(1, keepdims=True)
    index = flat.argmax(1)
    won = jax.nn.one_hot(index, flat.shape[1], dtype=g.dtype) * jnp.where(
        flat.max(1, keepdims=True) > 0, total, jnp.zeros_like(total)
    )
    return (won.reshape(a.shape),)


def winner_rules() -> RuleSet:
    """The rule set of deterministic winner-take-all (Tsotsos et al. 1995; Table 4 of the EB paper)."""
    return RuleSet({**_PASSING, "linear": winner, "add": winner, "gate": gate}, requires=_REQUIRED)
