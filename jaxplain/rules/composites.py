"""Named LRP composites: which rule goes on which layer.

=============================  =================  ====================  ===============
composite                      first layer        convolutions          dense layers
=============================  =================  ====================  ===============
``epsilon``                    as the rest        Epsilon               Epsilon
``z_plus``                     as the rest        ZPlus                 ZPlus
``gamma``                      as the rest        Gamma(0.25)           Gamma(0.25)
``alpha2_beta1``               as the rest        AlphaBeta(2, 1)       AlphaBeta(2, 1)
``w_square``                   as the rest        WSquare               WSquare
``flat``                       as the rest        Flat                  Flat
``epsilon_plus``               as the rest        ZPlus                 Epsilon
``epsilon_plus_flat``          Flat               ZPlus                 Epsilon
``epsilon_alpha2_beta1``       as the rest        AlphaBeta(2, 1)       Epsilon
``epsilon_alpha2_beta1_flat``  Flat               AlphaBeta(2, 1)       Epsilon
``epsilon_gamma_box``          ZBox(low, high)    Gamma(0.25)           Epsilon
``excitation_backprop``        as the rest        ZPlus                 ZPlus
=============================  =================  ====================  ===============

In all of them a batch norm is folded into the convolution before it, activations, local response
norms and other elementwise operations pass the relevance, additions and average pools share it in
proportion (`Norm`), products share it equally, and max pools take the plain gradient. Only in
``excitation_backprop`` do activations take the plain gradient, which differs where the activation
is neither 0 nor the identity (leaky ReLU, ReLU6).

Composites are those of Kohlbrenner et al., *Towards best practice in explaining neural network
decisions with LRP*, IJCNN 2020, and Anders et al., *Software for dataset-wide XAI*, 2021.
"""

from __future__ import annotations

import difflib
import functools

from jaxplain import core
from jaxplain.rules import lrp

__all__ = ["COMPOSITES", "composite", "lrp_rules"]


def lrp_rules(
    linear,
    *,
    dense=None,
    first=None,
    activation=core.pass_rule,
    max_pool=None,
    eps: float = 1e-6,
) -> core.RuleSet:
    """The rule set that has one rule on every linear layer, with the usual rules on all the rest.

    Args:
      linear: rule of convolutions, and of dense layers unless ``dense`` is given.
      dense: rule of dense layers.
      first: rule of the first linear layer of the network.
      activation: rule of activations; None for the plain gradient.
      max_pool: rule of max pools; None for the plain gradient.
      eps: stabiliser of the `Norm` rule on additions, average pools and products.

    Returns:
      A `RuleSet` for `jaxplain.lrp` and `jaxplain.with_rules`.

    Example:
      captum's LRP with ``Alpha1_Beta0_Rule`` on every layer:

      >>> from jaxplain.rules.lrp import AlphaBeta, Norm
      >>> rules = lrp_rules(AlphaBeta(1, 0, eps=1e-9, form="plain"), max_pool=Norm(1e-9), eps=1e-9)
    """
    norm = lrp.Norm(eps)
    table = {
        "linear": linear,
        "avg_pool": norm,
        "add": norm,
        "gate": norm,
        "normalise": core.pass_rule,
        "scale": core.pass_rule,
        "bias": core.pass_rule,
    }
    if dense is not None:
        table["dense"] = dense
    if activation is not None:
        table["activation"] = activation
    if max_pool is not None:
        table["max_pool"] = max_pool
    overrides = {} if first is None else {"first_linear": first}
    return core.RuleSet(table, overrides=overrides, requires=("linear", "add", "gate", "normalise"))


def _one(rule):
    return lambda bias, eps, box: lrp_rules(rule(bias, eps), eps=eps)


def _epsilon(conv, first=None):
    def build(bias, eps, box):
        return lrp_rules(
            conv(bias, eps),
            dense=lrp.Epsilon(eps, bias),
            first=None if first is None else first(eps, box),
            eps=eps,
        )

    return build


def _z_plus(bias, eps):
    return lrp.ZPlus(bias=bias, eps=eps)


def _gamma(bias, eps):
    return lrp.Gamma(0.25, bias=bias, eps=eps)


def _alpha2_beta1(bias, eps):
    return lrp.AlphaBeta(2.0, 1.0, bias=bias, eps=eps)


def _flat(eps, box):
    return lrp.Flat(eps)


def _box(eps, box):
    if box is None:
        raise ValueError(
            "composite 'epsilon_gamma_box' needs box=(low, high), the range of the pixel values."
        )
    low, high = box
    return lrp.ZBox(low, high, eps)


COMPOSITES = {
    "epsilon": _one(lambda bias, eps: lrp.Epsilon(eps, bias)),
    "z_plus": _one(_z_plus),
    "gamma": _one(_gamma),
    "alpha2_beta1": _one(_alpha2_beta1),
    "w_square": _one(lambda bias, eps: lrp.WSquare(bias, eps)),
    "flat": _one(lambda bias, eps: lrp.Flat(eps)),
    "epsilon_plus": _epsilon(_z_plus),
    "epsilon_plus_flat": _epsilon(_z_plus, _flat),
    "epsilon_alpha2_beta1": _epsilon(_alpha2_beta1),
    "epsilon_alpha2_beta1_flat": _epsilon(_alpha2_beta1, _flat),
    "epsilon_gamma_box": _epsilon(_gamma, _box),
    "excitation_backprop": lambda bias, eps, box: lrp_rules(
        _z_plus(bias, eps), activation=None, eps=eps
    ),
}
"""Name -> builder ``(bias, eps, box) -> RuleSet``."""


def _hashable(v):
    return tuple(float(e) for e in v) if hasattr(v, "__len__") else float(v)


def composite(
    name: str, *, bias: bool = True, eps: float = 1e-6, box: tuple | None = None
) -> core.RuleSet:
    """The rule set of a named composite; the module's table says what each holds.

    Args:
      name: one of `COMPOSITES`.
      bias: False leaves biases out of every denominator, so that relevance is conserved up to
        ``eps``.
      eps: the stabiliser of all rules.
      box: ``(low, high)``, for ``"epsilon_gamma_box"``: least and greatest value of the first
        linear layer's input, numbers or one for each channel.

    Returns:
      A `RuleSet`. The same arguments give the same object.

    Raises:
      ValueError: no such composite, or ``box`` is missing.

    Example:
      >>> composite("epsilon_plus") is composite("epsilon_plus")
      True
    """
    if name not in COMPOSITES:
        near = difflib.get_close_matches(str(name), COMPOSITES, n=3) or sorted(COMPOSITES)
        raise ValueError(f"No LRP composite {name!r}; did you mean one of {', '.join(near)}?")
    if box is not None:
        if len(box) != 2:
            raise ValueError(f"box must be (low, high), not a sequence of {len(box)}.")
        box = (_hashable(box[0]), _hashable(box[1]))
    return _cached(name, bool(bias), float(eps), box)


@functools.cache
def _cached(name, bias, eps, box):
    return COMPOSITES[name](bias, eps, box)
