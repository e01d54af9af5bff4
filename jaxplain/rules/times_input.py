"""Rules in the gradient-times-input form, those of AttnLRP and CP-LRP.

With relevance ``R`` of an operation's output ``y`` the signal is ``g = R / y``, a modified
gradient, and the relevance of an input ``x`` is ``x`` times the signal that arrives there. Linear
operations, additions, means, moves and max pools then need no rule: LRP-epsilon for ``eps -> 0`` is
their plain gradient. The rest, with ``J`` an operation's Jacobian:

==========================  ====================================================================
operation                   signal at the input
==========================  ====================================================================
softmax                     ``J^T g``, or none where it makes a gate (Achtibat et al., Eq. 13)
other norms                 ``J^T g`` with the statistic that divides held (Achtibat et al., Eq. 18)
activation ``f``            ``g f(x) / x``; at ``x = 0`` ``g f'(0)`` if ``f(0) = 0``, else 0
product of two activations  ``J^T g / 2`` for each (Achtibat et al., Eq. 15), or ``J^T g`` for the
                            feature and none for the gate
quotient of two             ``J^T g`` for the one that is divided, none for the divisor
==========================  ====================================================================

References: Achtibat et al., *AttnLRP: attention-aware layer-wise relevance propagation for
transformers*, ICML 2024. Ali et al., *XAI for transformers: better explanations through
conservative propagation*, ICML 2022.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxplain import core
from jaxplain.core import BoundOp
from jaxplain.core.numerics import safe_divide, stable_divide
from jaxplain.core.rules import unbroadcast
from jaxplain.rules.lrp import Epsilon, Gamma, gamma_signals

__all__ = ["EpsilonGradient", "GammaGradient", "HeldStatistics", "Secant", "SharedProduct"]


@dataclasses.dataclass(frozen=True)
class Secant:
    """Activations: the signal times ``f(x) / x``, so that the relevance passes."""

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        # One factor for all signals: of several targets each costs a multiplication.
        a, y = op.a, op.output.astype(op.a.dtype)
        if y.shape == a.shape:
            slope = op.vjp(jnp.ones_like(op.output))[0]
        else:  # a constant is larger than the value

            def f(a: jax.Array) -> jax.Array:
                return op.operation.evaluate((a,), op.constants)[0]

            slope = jax.jvp(f, (a,), (jnp.ones_like(a),))[1]
        at_zero = jnp.where(y == 0, slope, jnp.zeros_like(y))
        factor = jnp.where(a == 0, at_zero, safe_divide(y, a))
        return (unbroadcast(g.astype(a.dtype) * factor, a),)


@dataclasses.dataclass(frozen=True)
class HeldStatistics:
    """Norms: what divides is a constant, taking the mean away is linear. Softmax: its gradient."""

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        if op.name == "softmax":
            # A row that is masked whole may be NaN, and be left out only afterwards.
            lost = jnp.isnan(op.output)
            signals = op.vjp(jnp.where(lost, 0, g))
            same = op.a.shape == op.output.shape
            return tuple(jnp.where(lost, 0, s) for s in signals) if same else signals

        def forward(*inputs: jax.Array) -> jax.Array:
            return op.operation.with_statistics_held(inputs, op.constants)

        return jax.vjp(forward, *op.inputs)[1](g.astype(op.output.dtype))

    def accepts(self, op: core.Operation) -> bool | str:
        if op.name != "log_softmax":
            return True
        return (
            "has no rule in this composite; explain the scores before it, or pass a rule for "
            "'log_softmax'"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharedProduct:
    """Products of two activations, those of matrices included, and quotients.

    Attributes:
        products: ``"uniform"`` shares equally; ``"values"`` gives all to the feature and nothing to
            the gate (attention weights, a factor between 0 and 1, else the one that comes out of an
            activation), and shares equally where there is no telling which is the gate.
    """

    products: Literal["values", "uniform"] = "uniform"

    def __post_init__(self) -> None:
        if self.products not in ("values", "uniform"):
            raise ValueError(f"products must be 'values' or 'uniform', not {self.products!r}.")

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array | None, ...]:
        silent = self.silences(op.operation)
        if not any(silent):
            return op.vjp(g / 2)
        signals = op.vjp(g)
        return tuple(None if none else s for none, s in zip(silent, signals, strict=True))

    def silences(self, op: core.Operation) -> tuple[bool, ...]:
        """Which inputs get no signal."""
        if op.within_gate and self.products == "values":
            return (True,) * len(op.inputs)
        if op.gates is None or (self.products == "uniform" and op.divisor is None):
            return (False,) * len(op.inputs)
        return op.gates


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonGradient:
    """LRP-epsilon of linear layers, as `Epsilon`; for ``eps=0`` with biases the plain gradient.

    Attributes:
        eps: the stabiliser.
        bias: whether the bias is part of the denominator.
    """

    eps: float = 0.0
    bias: bool = True

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        share = stable_divide(_relevance(op, g), op.total(self.bias), self.eps)
        return (op.pull(share),)

    accepts = Epsilon.accepts


@dataclasses.dataclass(frozen=True, kw_only=True)
class GammaGradient:
    """LRP-gamma of linear layers, as `Gamma` with ``form="signed"``.

    Attributes:
        gamma: how much more positive contributions count; 0 gives `EpsilonGradient`.
        eps: the stabiliser.
        bias: whether the bias is part of the denominators.
    """

    gamma: float = 0.25
    eps: float = 0.0
    bias: bool = True

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        bias = op.bias if self.bias else None
        on_value, on_size = gamma_signals(op, _relevance(op, g), self.gamma, bias, self.eps)
        return (on_value if on_size is None else on_value + jnp.sign(op.a) * on_size,)

    accepts = Gamma.accepts


def _relevance(op: BoundOp, g: jax.Array) -> jax.Array:
    """Of a layer with what is folded into it: the signal is that of the layer's own output."""
    scale = op.affine_scale
    return op.total() * (g if scale is None else safe_divide(g, scale))
