"""Backward rules of layer-wise relevance propagation (LRP).

Every rule takes the relevance ``R_k`` of the outputs of one operation and shares it among the
operation's inputs ``a_j``. For a linear operation ``z_k = sum_j a_j w_jk + b_k``, with
``w+ = max(w, 0)``, ``w- = min(w, 0)`` (``a``, ``b`` likewise) and ``s(z) = z + eps * sign(z)``,
``sign(0) = 1``, the relevance of input j is

=============  ==============================================================================
rule           relevance of input j, summed over k
=============  ==============================================================================
`Epsilon`      ``a w R / s(z)``
`ZPlus`        ``(a+ w+ + a- w-) R / s(sum_j (a+ w+ + a- w-) + b+)``
`AlphaBeta`    ``alpha (a+ w+ + a- w-) R / s(... + b+) - beta (a+ w- + a- w+) R / s(... + b-)``
`Gamma`        where z > 0 ``(a w + g (a+ w+ + a- w-)) R / s(... + b + g b+)`` (see `Gamma`)
`WSquare`      ``w^2 R / s(sum_j w^2 + b^2)``
`Flat`         ``R / s(number of inputs that output k sees)``
`ZBox`         ``(a w - l w+ - h w-) R / s(... + b - b+ - b-)``
`Norm`         ``a_i R / s(sum_i a_i)``, for additions and average pools
=============  ==============================================================================

A rule is a frozen dataclass with keyword arguments, so it can be hashed, compared, printed and put
in a `RuleSet`. Where a bias takes relevance in the denominator, that relevance is absorbed;
``bias=False`` leaves biases out, and relevance is then conserved up to ``eps``.

References: Bach et al., *On pixel-wise explanations for non-linear classifier decisions by
layer-wise relevance propagation*, PLOS ONE 2015 (epsilon: Eq. 58, alpha-beta: Eq. 60). Montavon et
al., *Explaining nonlinear classification decisions with deep Taylor decomposition*, Pattern
Recognition 2017 (w^2, z+, z^B). Montavon et al., *Layer-wise relevance propagation: an overview*,
2019 (gamma). Lapuschkin et al., *Unmasking Clever Hans predictors*, Nature Communications 2019
(flat). Achtibat et al., *AttnLRP*, ICML 2024 (equal shares for products).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.core import BoundOp, Operation
from jaxplain.core.numerics import negative, positive, stable_divide
from jaxplain.rules._form import Form, require_form

__all__ = ["AlphaBeta", "Epsilon", "Flat", "Gamma", "Norm", "WSquare", "ZBox", "ZPlus"]


class _Linear:
    """A rule for linear operations alone."""

    def accepts(self, op: Operation) -> bool | str:
        if op.kind == "linear":
            return True
        return (
            f"is no linear operation, which {type(self).__name__} is a rule for: map the rule to "
            "'linear', 'conv' or 'dense' in the rule set"
        )


def _plus_bias(z: jax.Array, b: jax.Array | None) -> jax.Array:
    return z if b is None else z + b


def _share(
    op: BoundOp,
    g: jax.Array,
    on_positive: jax.Array,
    on_negative: jax.Array,
    bias: jax.Array | None,
    eps: float,
) -> jax.Array:
    """Shares g by ``a+ u + a- v`` for weights u (on positive inputs) and v (on negative ones)."""
    if op.nonnegative:
        a = op.a
        share = stable_divide(g, _plus_bias(op.map(a, on_positive), bias), eps)
        return a * op.transpose(on_positive, share)
    up, down = positive(op.a), negative(op.a)
    z = _plus_bias(op.map(up, on_positive) + op.map(down, on_negative), bias)
    share = stable_divide(g, z, eps)
    return up * op.transpose(on_positive, share) + down * op.transpose(on_negative, share)


def _share_plain(
    op: BoundOp, g: jax.Array, w: jax.Array, bias: jax.Array | None, eps: float
) -> jax.Array:
    """Shares g by ``a w``, whatever the sign of a."""
    share = stable_divide(g, _plus_bias(op.map(op.a, w), bias), eps)
    return op.a * op.transpose(w, share)


def gamma_signals(
    op: BoundOp, relevance: jax.Array, gamma: float, bias: jax.Array | None, eps: float
) -> tuple[jax.Array, jax.Array | None]:
    """Two signals ``s, t`` so that the relevance of `Gamma` is ``a s + |a| t``; t may be None.

    One more map and one more transpose than `Epsilon` has: the positive contributions follow from
    ``a w`` and from ``a w+`` where ``a >= 0``, else from ``|a| |w|``, their sum without signs.
    """
    op, relevance = op.once_there_is(relevance)
    w, z = op.weight, op.total(bias=False)
    if op.nonnegative:
        wp = positive(w)
        excited = op.map(op.a, wp)
        inhibited = z - excited
    else:
        size = op.map(jnp.abs(op.a), jnp.abs(w))
        excited, inhibited = (z + size) / 2, (z - size) / 2
    if bias is not None:
        excited, inhibited = excited + positive(bias), inhibited + negative(bias)
        z = z + bias
    zero = jnp.zeros_like(relevance)
    up = stable_divide(jnp.where(z > 0, relevance, zero), z + gamma * excited, eps)
    down = stable_divide(jnp.where(z < 0, relevance, zero), z + gamma * inhibited, eps)
    if op.nonnegative:
        part = op.pull(up + (1 + gamma) * down)
        return part + gamma * op.transpose(wp, up - down), None
    part = op.pull((1 + gamma / 2) * (up + down))
    return part, op.transpose(jnp.abs(w), gamma / 2 * (up - down))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Epsilon(_Linear):
    """LRP-epsilon: ``a w R / s(a w + b)`` (Bach et al. 2015, Eq. 58).

    As ``eps`` goes to 0 in a ReLU network, it becomes input times gradient.

    Attributes:
        eps: the stabiliser. Larger values absorb relevance and give sparser maps.
        bias: whether the bias is part of the denominator.
    """

    eps: float = 1e-6
    bias: bool = True

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        share = stable_divide(g, op.total(self.bias), self.eps)
        return (op.a * op.pull(share),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlphaBeta(_Linear):
    """LRP-alpha-beta: excitation and inhibition apart (Bach et al. 2015, Eq. 60).

    ``alpha=1, beta=0`` is `ZPlus`; without biases and for non-negative inputs, that is the linear
    rule of Excitation Backprop.

    Attributes:
        alpha, beta: weights of the two parts; ``alpha - beta = 1`` conserves relevance.
        bias: whether ``b+`` (``b-`` in the inhibitory part) is part of the denominator.
        eps: the stabiliser.
        form: ``"signed"`` as in the module's table; ``"plain"`` shares by ``a w+`` and ``a w-``
            with the bias as it is, whatever the sign of the input (captum's Alpha1_Beta0 with the
            defaults here).
    """

    alpha: float = 1.0
    beta: float = 0.0
    bias: bool = True
    eps: float = 1e-6
    form: Form = "signed"

    def __post_init__(self) -> None:
        require_form(self.form)

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        op, g = op.once_there_is(g)
        wp, wn = positive(op.weight), negative(op.weight)
        b = op.bias if self.bias else None
        result = None
        if self.alpha:
            if self.form == "plain":
                part = _share_plain(op, g, wp, b, self.eps)
            else:
                part = _share(op, g, wp, wn, None if b is None else positive(b), self.eps)
            result = self.alpha * part
        if self.beta:
            if self.form == "plain":
                part = _share_plain(op, g, wn, b, self.eps)
            else:
                part = _share(op, g, wn, wp, None if b is None else negative(b), self.eps)
            result = -self.beta * part if result is None else result - self.beta * part
        return (jnp.zeros_like(op.a) if result is None else result,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZPlus(_Linear):
    """LRP-z+: excitation only, ``(a w)+ R / s(sum (a w)+ + b+)`` (Montavon et al. 2017).

    Equal to ``AlphaBeta(alpha=1, beta=0)``. The attributes are those of `AlphaBeta`.
    """

    bias: bool = True
    eps: float = 1e-6
    form: Form = "signed"

    def __post_init__(self) -> None:
        require_form(self.form)

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        return AlphaBeta(alpha=1.0, beta=0.0, bias=self.bias, eps=self.eps, form=self.form)(op, g)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gamma(_Linear):
    """LRP-gamma: positive contributions count ``1 + gamma`` times (Montavon et al. 2019).

    With ``form="signed"``, inputs and outputs may have any sign: where ``z > 0`` the shares are
    ``a+ (w + g w+) + a- (w + g w-)`` with ``b + g b+`` in the denominator; where ``z < 0`` they are
    ``a+ (w + g w-) + a- (w + g w+)`` with ``b + g b-``; where ``z = 0`` there is no share. With
    ``form="plain"`` they are ``a (w + g w+)`` with the bias as it is, always: the formula of the
    paper, which assumes ``a >= 0`` and ``z >= 0``.

    Attributes:
        gamma: 0 gives `Epsilon`, infinity would give `ZPlus`.
        bias: whether the bias is part of z and of the denominators.
        eps: the stabiliser.
        form: see above.
    """

    gamma: float = 0.25
    bias: bool = True
    eps: float = 1e-6
    form: Form = "signed"

    def __post_init__(self) -> None:
        require_form(self.form)

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        b = op.bias if self.bias else None
        if self.form == "plain":
            op, g = op.once_there_is(g)
            up = op.weight + self.gamma * positive(op.weight)
            return (_share_plain(op, g, up, b, self.eps),)
        on_value, on_size = gamma_signals(op, g, self.gamma, b, self.eps)
        relevance = op.a * on_value
        return (relevance if on_size is None else relevance + jnp.abs(op.a) * on_size,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSquare(_Linear):
    """LRP-w^2: shares by squared weights, whatever the inputs (Montavon et al. 2017).

    Padding takes no share. For first layers whose inputs are unbounded.

    Attributes:
        bias: whether ``b^2`` is part of the denominator.
        eps: the stabiliser.
    """

    bias: bool = True
    eps: float = 1e-6

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        op, g = op.once_there_is(g)
        w = op.weight * op.weight
        b = op.bias * op.bias if self.bias and op.bias is not None else None
        z = _plus_bias(op.map(jnp.ones_like(op.a), w), b)
        return (op.transpose(w, stable_divide(g, z, self.eps)),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat(_Linear):
    """LRP-flat: equal shares for all inputs that an output sees (Lapuschkin et al. 2019).

    Padding does not count, and there is no share for the bias.

    Attributes:
        eps: the stabiliser.
    """

    eps: float = 1e-6

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        w = jnp.ones_like(op.weight)
        z = op.map(jnp.ones_like(op.a), w)
        return (op.transpose(w, stable_divide(g, z, self.eps)),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZBox(_Linear):
    """LRP-z^B, for inputs known to lie in a box such as pixel values (Montavon et al. 2017).

    ``(a w - l w+ - h w-) R / s(sum_j (a w - l w+ - h w-) + b - b+ - b-)``. ``b - b+ - b-`` is 0, so
    the bias takes no share.

    Attributes:
        low, high: least and greatest value of the operation's **input**, after any preprocessing
            inside the network: a number, or one for each channel (the last axis). None for both
            leaves the box open, for ``jaxplain.lrp(..., box=(low, high))`` to set.
        eps: the stabiliser.
    """

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("ZBox takes low and high together, or neither.")
        for name in ("low", "high"):
            value = getattr(self, name)
            if value is None:
                continue
            # Arrays cannot be hashed, and rules must be.
            hashable = tuple(float(v) for v in value) if np.ndim(value) else float(value)
            object.__setattr__(self, name, hashable)

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        if self.low is None:
            raise ValueError(
                "this ZBox has no box yet; give it low and high, or give jaxplain.lrp the option "
                "box=(low, high)."
            )
        op, g = op.once_there_is(g)
        a, w = op.a, op.weight
        low = jnp.broadcast_to(jnp.asarray(self.low, a.dtype), a.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, a.dtype), a.shape)
        wp, wn = positive(w), negative(w)
        share = stable_divide(g, op.map(a, w) - op.map(low, wp) - op.map(high, wn), self.eps)
        return (
            a * op.transpose(w, share)
            - low * op.transpose(wp, share)
            - high * op.transpose(wn, share),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """Shares in proportion to each input's part of the output: ``a_i (dz / da_i) R / s(z)``.

    For an addition of activations these are ``a_i R / s(sum a)``; for an average pool the same over
    the window; for a max pool, the plain gradient up to ``eps``. For a product of n activations (a
    gate) each part is all of z, so each factor gets a share of 1 / n, the uniform rule of Achtibat
    et al. 2024.

    Attributes:
        eps: the stabiliser.
    """

    eps: float = 1e-6

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple[jax.Array, ...]:
        if op.kind == "linear":
            return (_share_plain(op, g, op.weight, None, self.eps),)
        if op.name == "div" and len(op.inputs) == 2:
            # A quotient of activations is a normalisation: the numerator keeps the relevance.
            return g, jnp.zeros_like(op.inputs[1])
        if op.kind == "gate":
            g = g / len(op.inputs)
        share = stable_divide(g, op.output, self.eps)
        return tuple(a * d for a, d in zip(op.inputs, op.vjp(share), strict=True))
