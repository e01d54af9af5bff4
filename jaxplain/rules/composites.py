"""Named LRP composites: which rule goes on which layer.

=============================  =====================  ====================  ===================
composite                      first layer        convolutions          dense layers
=============================  =====================  ====================  ===================
``epsilon``                    as the rest        Epsilon               Epsilon
``z_plus``                     as the rest        ZPlus                 ZPlus
``gamma``                      as the rest        Gamma, 0.25           Gamma, 0.25
``alpha2_beta1``               as the rest        AlphaBeta, 2 and 1    AlphaBeta, 2 and 1
``w_square``                   as the rest        WSquare               WSquare
``flat``                       as the rest        Flat                  Flat
``epsilon_plus``               as the rest        ZPlus                 Epsilon
``epsilon_plus_flat``          Flat               ZPlus                 Epsilon
``epsilon_alpha2_beta1``       as the rest        AlphaBeta, 2 and 1    Epsilon
``epsilon_alpha2_beta1_flat``  Flat               AlphaBeta, 2 and 1    Epsilon
``epsilon_gamma_box``          ZBox               Gamma, 0.25           Epsilon
``excitation_backprop``        as the rest        ZPlus                 ZPlus
``attn_lrp``                   as the rest        Epsilon, or Gamma     Epsilon, or Gamma
``cp_lrp``                     as the rest        Epsilon, or Gamma     Epsilon, or Gamma
=============================  =====================  ====================  ===================

In all of them a batch norm is folded into the convolution before it, activations, local response
norms and other elementwise operations pass the relevance, additions and average pools share it in
proportion (`Norm`), products give all to the feature and none to the gate, and max pools take the
plain gradient. Only in ``excitation_backprop`` do activations take the plain gradient, which
differs where the activation is neither 0 nor the identity (leaky ReLU, ReLU6).

``attn_lrp`` and ``cp_lrp`` are for networks with attention, and the others have no rule for it:
the rules of `jaxplain.rules.times_input`, with ``eps=0`` and, where ``gamma`` is given, `Gamma` on
convolutions and dense layers. In ``attn_lrp`` products share equally and softmax takes its own
gradient; in ``cp_lrp`` attention weights and gates are constants.

`register_composite` adds your own to them.

Composites are those of Kohlbrenner et al., *Towards best practice in explaining neural network
decisions with LRP*, IJCNN 2020, and Anders et al., *Software for dataset-wide XAI*, 2021; AttnLRP
is of Achtibat et al., ICML 2024, CP-LRP of Ali et al., ICML 2022.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from jaxplain import core
from jaxplain.core.elementwise import HOMOGENEOUS
from jaxplain.core.rules import gradient_rule
from jaxplain.rules.boxes import with_box
from jaxplain.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus
from jaxplain.rules.lrp_structure import Affine, Normalisation, Product
from jaxplain.rules.times_input import (
    EpsilonGradient,
    GammaGradient,
    HeldStatistics,
    Secant,
    SharedProduct,
)

__all__ = [
    "COMPOSITES",
    "composite",
    "default_composite",
    "lrp_rules",
    "register_composite",
    "resolved",
]

Builder = Callable[..., core.RuleSet]

#: The group of entry points in which an installed package can offer composites.
ENTRY_POINTS = "jaxplain.composites"


def lrp_rules(
    linear: core.Rule,
    *,
    dense: core.Rule | None = None,
    first: core.Rule | None = None,
    activation: core.Rule | None = core.pass_rule,
    max_pool: core.Rule | None = None,
    products: Literal["values", "uniform"] = "values",
    eps: float = 1e-6,
) -> core.RuleSet:
    """The rule set that has one rule on every linear layer, with the usual rules on all the rest.

    Args:
        linear: rule of convolutions, and of dense layers unless ``dense`` is given.
        dense: rule of dense layers.
        first: rule of the first linear layer of the network.
        activation: rule of activations; None for the plain gradient.
        max_pool: rule of max pools; None for the plain gradient.
        products: who gets the relevance of a product of two activations, see `Product`.
        eps: stabiliser of the rules of additions, average pools, norms and products.

    Returns:
        A `RuleSet` for `jaxplain.lrp` and `jaxplain.with_rules`.

    Example:
        captum's LRP with ``Alpha1_Beta0_Rule`` on every layer:

        >>> from jaxplain.rules import AlphaBeta, Norm
        >>> rule = AlphaBeta(alpha=1, beta=0, eps=1e-9, form="plain")
        >>> rules = lrp_rules(rule, max_pool=Norm(eps=1e-9), eps=1e-9)
    """
    norm, epsilon = Norm(eps=eps), Epsilon(eps=eps)
    table: dict[str, core.Rule] = {
        "linear": linear,
        "avg_pool": norm,
        "add": norm,
        "resize": norm,
        "affine": Affine(epsilon if isinstance(linear, ZBox) else linear, norm=epsilon),
        "gate": Product(products=products, eps=eps),
        "normalise": Normalisation(eps=eps),
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


# A builder's keyword arguments are the options that its composite has.


def _epsilon(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(Epsilon(eps=eps, bias=bias), eps=eps)


def _z_plus(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(ZPlus(bias=bias, eps=eps), eps=eps)


def _gamma(*, bias: bool = True, eps: float = 1e-6, gamma: float = 0.25) -> core.RuleSet:
    return lrp_rules(Gamma(gamma=gamma, bias=bias, eps=eps), eps=eps)


def _alpha2_beta1(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(AlphaBeta(alpha=2.0, beta=1.0, bias=bias, eps=eps), eps=eps)


def _w_square(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(WSquare(bias=bias, eps=eps), eps=eps)


def _flat(*, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(Flat(eps=eps), eps=eps)


def _excitation_backprop(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
    return lrp_rules(ZPlus(bias=bias, eps=eps), activation=None, eps=eps)


def _attention(products: Literal["values", "uniform"]) -> Builder:
    def build(*, bias: bool = True, eps: float = 0.0, gamma: float | None = None) -> core.RuleSet:
        linear: core.Rule = gradient_rule
        if gamma:
            linear = GammaGradient(gamma=gamma, eps=eps, bias=bias)
        elif eps or not bias:
            linear = EpsilonGradient(eps=eps, bias=bias)
        table: dict[str, core.Rule] = {
            "linear": gradient_rule,
            "conv": linear,
            "dense": linear,
            "activation": Secant(),
            # Their secant is their gradient.
            **dict.fromkeys(sorted(HOMOGENEOUS), gradient_rule),
            "normalise": HeldStatistics(),
            "gate": SharedProduct(products=products),
        }
        return core.RuleSet(table, requires=("linear", "gate", "normalise"), times_input=True)

    return build


def _epsilon_dense(convolutions: Builder, first: Callable[..., core.Rule] | None = None) -> Builder:
    """A builder of ``convolutions``' rules with `Epsilon` on dense layers."""

    def build(*, bias: bool = True, eps: float = 1e-6) -> core.RuleSet:
        rules = {"dense": Epsilon(eps=eps, bias=bias)}
        overrides = {} if first is None else {"first_linear": first(eps=eps)}
        return convolutions(bias=bias, eps=eps).replace(rules, overrides=overrides)

    return build


_BUILDERS: dict[str, Builder] = {
    "epsilon": _epsilon,
    "z_plus": _z_plus,
    "gamma": _gamma,
    "alpha2_beta1": _alpha2_beta1,
    "w_square": _w_square,
    "flat": _flat,
    "epsilon_plus": _epsilon_dense(_z_plus),
    "epsilon_plus_flat": _epsilon_dense(_z_plus, Flat),
    "epsilon_alpha2_beta1": _epsilon_dense(_alpha2_beta1),
    "epsilon_alpha2_beta1_flat": _epsilon_dense(_alpha2_beta1, Flat),
    "epsilon_gamma_box": _epsilon_dense(_gamma, ZBox),
    "excitation_backprop": _excitation_backprop,
    "attn_lrp": _attention("uniform"),
    "cp_lrp": _attention("values"),
}

COMPOSITES: Mapping[str, Builder] = MappingProxyType(_BUILDERS)
"""Name -> builder, of the composites above and of those that were registered."""


def register_composite(name: str, builder: Builder) -> None:
    """Gives a composite of your own a name, for ``jaxplain.lrp(..., composite=name)``.

    A name lasts as long as the process. Where it is to be known everywhere, the command line
    included, there are two ways that need no call of this function: ``"module:builder"`` is a name
    of any builder that can be imported, and an installed package can offer its builders as entry
    points of the group ``jaxplain.composites``.

    Args:
        name: how the composite is called from now on.
        builder: a function that returns its `RuleSet`, with all arguments keywords that have
            defaults. Where it has the arguments ``bias`` or ``eps``, those are options of the
            composite too. A `ZBox` without ``low`` and ``high`` gets them from ``box=``.

    Raises:
        TypeError: ``builder`` is no function, or has arguments without defaults.
        ValueError: the name is taken by another builder, or holds a colon.

    Example:
        >>> from jaxplain.rules import Gamma, ZBox, boxes, lrp_rules
        >>> def gentle(*, eps=1e-6):
        ...     return lrp_rules(Gamma(gamma=0.1, eps=eps), first=ZBox(eps=eps), eps=eps)
        >>> register_composite("gentle", gentle)
        >>> boxes.has_box(composite("gentle", eps=1e-9))
        True
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise ValueError(f"the name of a composite must be a text without a colon, not {name!r}.")
    if name in _BUILDERS and _BUILDERS[name] is not builder:
        raise ValueError(f"there is a composite {name!r} already; choose another name.")
    _options(name, builder)
    _BUILDERS[name] = builder


def composite(
    name: str,
    *,
    bias: bool | None = None,
    eps: float | None = None,
    gamma: float | None = None,
    box: tuple | None = None,
) -> core.RuleSet:
    """The rule set of a named composite; the module's table says what each holds.

    Args:
        name: one of `COMPOSITES`, the name of an entry point of the group
            ``jaxplain.composites``, or ``"module:builder"``; see `register_composite`.
        bias: False leaves biases out of every denominator, so that relevance is conserved up to
            ``eps``; None is the composite's default, True in ours.
        eps: the stabiliser of all rules; None is the composite's default: 0 in ``attn_lrp`` and
            ``cp_lrp``, 1e-6 in the others of ours.
        gamma: how much more positive contributions count on convolutions and dense layers, for
            ``gamma`` (0.25 by default), ``attn_lrp`` and ``cp_lrp`` (LRP-epsilon by default).
        box: ``(low, high)``, for a composite that holds a `ZBox`, see `with_box`. None leaves the
            box open, for `jaxplain.lrp` to set.

    Returns:
        A `RuleSet`; equal arguments give equal ones, for which nothing compiles twice.

    Raises:
        ValueError: no such composite, or an option that it does not have.
        TypeError: what the name leads to is no builder.

    Example:
        >>> composite("epsilon_plus", eps=0.1).rules["dense"]
        Epsilon(eps=0.1, bias=True)
    """
    builder = _builder(name)
    known = _options(name, builder)
    given: dict[str, Any] = {}
    if bias is not None:
        given["bias"] = bool(bias)
    if eps is not None:
        given["eps"] = float(eps)
    if gamma is not None:
        given["gamma"] = float(gamma)
    for option in given:
        if option not in known:
            raise ValueError(f"composite {name!r} has no option {option!r}; leave it out.")
    rules = _built(name, builder, tuple(given.items()))
    return rules if box is None else with_box(rules, box, name)


def default_composite(graph: core.Graph) -> str:
    """The composite that `jaxplain.lrp` takes where none is named.

    Args:
        graph: of the traced network (``jaxplain.trace(...).graph``).

    Returns:
        ``"attn_lrp"`` for a network with attention: matrices of activations that are multiplied, or
        activations by a softmax of others. ``"epsilon_plus"`` for every other.
    """

    def weighs(v: Any) -> bool:
        op = graph.producer.get(v)
        while op is not None and op.kind == "structural" and len(op.inputs) == 1:
            op = graph.producer.get(op.inputs[0])
        return op is not None and op.name == "softmax"

    attends = any(
        op.kind == "gate" and (op.name == "matmul" or any(map(weighs, op.inputs)))
        for op in graph.ops
    )
    return "attn_lrp" if attends else "epsilon_plus"


def resolved(rules: str | core.RuleSet | None, graph: core.Graph) -> core.RuleSet:
    """The rule set that a composite's name, a rule set or None stands for in a network.

    Raises:
        TypeError, ValueError: it is none of these, or there is no such composite.
    """
    if rules is None:
        rules = default_composite(graph)
    if isinstance(rules, str):
        return composite(rules)
    if isinstance(rules, core.RuleSet):
        return rules
    raise TypeError(f"composite must be a name or a RuleSet, not {type(rules).__name__}.")


def _builder(name: str) -> Builder:
    if not isinstance(name, str):
        raise TypeError(f"the name of a composite is a text, not {type(name).__name__}.")
    if name in _BUILDERS:
        return _BUILDERS[name]
    if ":" in name:
        return _imported(name)
    offered = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if name in offered.names:
        register_composite(name, offered[name].load())
        return _BUILDERS[name]
    known = sorted({*_BUILDERS, *offered.names})
    near = difflib.get_close_matches(name, known, n=3) or known
    raise ValueError(f"No LRP composite {name!r}; did you mean one of {', '.join(near)}?")


def _imported(name: str) -> Builder:
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise ValueError(
            f"composite {name!r}: there is no module {error.name!r}; "
            "is its folder on the import path?"
        ) from None
    if not hasattr(found, attribute):
        raise ValueError(f"composite {name!r}: the module {module!r} has no {attribute!r}.")
    return getattr(found, attribute)


def _options(name: str, builder: Builder) -> set[str]:
    """The names of a builder's arguments, all of which must be optional keywords."""
    if not callable(builder):
        raise TypeError(
            f"composite {name!r}: a builder is a function that returns a RuleSet, "
            f"not {type(builder).__name__}."
        )
    parameters = inspect.signature(builder).parameters.values()
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise TypeError(f"composite {name!r}: a builder names its arguments; {p} does not.")
        if p.default is p.empty or p.kind is p.POSITIONAL_ONLY:
            raise TypeError(
                f"composite {name!r}: the builder's argument {p.name!r} must be a keyword with a "
                "default."
            )
    return {p.name for p in parameters}


@functools.cache
def _built(name: str, builder: Builder, options: tuple[tuple[str, Any], ...]) -> core.RuleSet:
    # Cached, since a builder may make new rules at each call, and other rules compile anew.
    rules = builder(**dict(options))
    if not isinstance(rules, core.RuleSet):
        raise TypeError(
            f"composite {name!r}: the builder must return a RuleSet, not {type(rules).__name__}."
        )
    return rules.replace(name=name)
