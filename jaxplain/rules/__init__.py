"""Backward rules and named rule sets. A rule is ``rule(op, g) -> signals``; see jaxplain.core."""

from jaxplain.core.rules import BoundOp, RuleSet, pass_rule
from jaxplain.rules.composites import COMPOSITES, composite, lrp_rules, register_composite
from jaxplain.rules.excitation import Excitation, ResidualShare, excitation_rules
from jaxplain.rules.gradient_rules import deconvnet_rules, guided_rules
from jaxplain.rules.lrp import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus
from jaxplain.rules.lrp_structure import Affine, Normalisation, Product
from jaxplain.rules.winner import winner_rules

__all__ = [
    "COMPOSITES",
    "Affine",
    "AlphaBeta",
    "BoundOp",
    "Epsilon",
    "Excitation",
    "Flat",
    "Gamma",
    "Norm",
    "Normalisation",
    "Product",
    "ResidualShare",
    "RuleSet",
    "WSquare",
    "ZBox",
    "ZPlus",
    "composite",
    "deconvnet_rules",
    "excitation_rules",
    "guided_rules",
    "lrp_rules",
    "pass_rule",
    "register_composite",
    "winner_rules",
]
