"""LRP's rules between the linear layers: norms, gates, batch norms that fold nowhere.

They are parts of the composites; `jaxplain.rules.composites.lrp_rules` puts them together.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxplain import core
from jaxplain.core import BoundOp
from jaxplain.core.numerics import stable_divide
from jaxplain.core.rules import DiagonalOp, unbroadcast
from jaxplain.rules.lrp import Norm

__all__ = ["Affine", "Normalisation", "Product"]


@dataclasses.dataclass(frozen=True)
class Affine:
    """Scales and biases that fold into no layer, as the batch norm of a pre-activation network.

    They are a linear layer with one weight for each unit, under the rule ``linear``; a norm's own
    scale and shift share as the norm does, under ``norm``, whether they are written apart from it
    or not. Multiplying by a known positive number passes the relevance.
    """

    linear: core.Rule
    norm: core.Rule

    def __call__(self, op: DiagonalOp, g: jax.Array) -> tuple:
        if op.run.positive_number:
            return op.passed(g)
        return (self.norm if op.run.after_norm else self.linear)(op, g)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Norms: the statistic that divides is a constant, and taking the mean away is linear.

    The relevance of input j is ``a_j sum_k (dy_k / da_j) R_k / s(y_k)`` with the standard deviation
    (root mean square, ...) held (Achtibat et al. 2024). Where nothing but a factor is left, as of
    RMSNorm and local response norm, it passes. Softmax has no such rule.

    Attributes:
        eps: the stabiliser.
    """

    eps: float = 1e-6

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        if op.operation.within_gate:
            return tuple(jnp.zeros_like(a) for a in op.inputs)
        same = op.inputs[0].shape == op.output.shape
        if same and op.name in ("rms_norm", "l2_norm", "lrn", "shift"):
            return (g,)

        def forward(*inputs: jax.Array) -> jax.Array:
            return op.operation.with_statistics_held(inputs, op.constants)

        share = stable_divide(g, op.output, self.eps)
        signals = jax.vjp(forward, *op.inputs)[1](share.astype(op.output.dtype))
        return tuple(a * s for a, s in zip(op.inputs, signals, strict=True))

    def accepts(self, op: core.Operation) -> bool | str:
        if op.within_gate or op.name not in ("softmax", "log_softmax"):
            return True
        return (
            "has no rule in this composite; take 'attn_lrp' or 'cp_lrp', explain the scores before "
            "it or a layer above it, or pass a rule for 'softmax'"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """Products of two activations.

    Attributes:
        products: ``"values"`` gives all to the feature, none to the gate (the factor between 0 and
            1, else the smaller one, else the one that comes out of an activation), and shares
            equally where there is no telling which is the gate; ``"uniform"`` always shares
            equally (Achtibat et al. 2024).
        eps: the stabiliser.
    """

    products: Literal["values", "uniform"] = "values"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.products not in ("values", "uniform"):
            raise ValueError(f"products must be 'values' or 'uniform', not {self.products!r}.")

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        gates = op.operation.gates
        if op.operation.within_gate and self.products == "values":
            return tuple(jnp.zeros_like(a) for a in op.inputs)
        if gates is None or self.products == "uniform":
            return Norm(eps=self.eps)(op, g)
        return tuple(
            jnp.zeros_like(a) if is_gate else unbroadcast(g, a)
            for a, is_gate in zip(op.inputs, gates, strict=True)
        )

    def accepts(self, op: core.Operation) -> bool | str:
        if op.name != "matmul" or (op.within_gate and self.products == "values"):
            return True
        return (
            "is a product of two activations, as in attention, and has no rule in this composite; "
            "take 'attn_lrp' or 'cp_lrp', explain a layer above it, or pass a rule for 'matmul'"
        )
