"""Backward rules and named rule sets. A rule is ``rule(op, g) -> signals``; see jaxplain.core."""

from jaxplain.core.rule_sets import RuleSet
from jaxplain.core.rules import BoundOp, pass_rule
from jaxplain.rules.composites import (
    COMPOSITES,
    composite,
    default_composite,
    lrp_rules,
    register_composite,
)
from jaxplain.rules.excitation import Excitation, ResidualShare, excitation_rules
from jaxplain.rules.gradient_rules import deconvnet_rules, guided_rules
from jaxplain.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus
from jaxplain.rules.lrp_structure import Affine, Normalisation, Product
from jaxplain.rules.times_input import (
    EpsilonGradient,
    GammaGradient,
    HeldStatistics,
    Secant,
    SharedProduct,
)
from jaxplain.rules.winner import winner_rules

__all__ = [
    "COMPOSITES",
    "Affine",
    "AlphaBeta",
    "BoundOp",
    "Epsilon",
    "EpsilonGradient",
    "Excitation",
    "Flat",
    "Gamma",
    "GammaGradient",
    "HeldStatistics",
    "Norm",
    "Normalisation",
    "Product",
    "ResidualShare",
    "RuleSet",
    "Secant",
    "SharedProduct",
    "WSquare",
    "ZBox",
    "ZPlus",
    "composite",
    "default_composite",
    "deconvnet_rules",
    "excitation_rules",
    "guided_rules",
    "lrp_rules",
    "pass_rule",
    "register_composite",
    "winner_rules",
]
