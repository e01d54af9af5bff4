"""Backward rules of guided backprop and of the deconvolutional network.

With input ``a``, output ``max(a, 0)`` and signal ``R`` above a ReLU, the signal below it is

============================  ==================
plain gradient                ``R [a > 0]``
`deconvnet` (Zeiler)          ``max(R, 0)``
`guided` (Springenberg)       ``max(R, 0) [a > 0]``
============================  ==================

For a ReLU6, the plain gradient is also 0 where ``a > 6``. All other operations keep their gradient.

References: Zeiler and Fergus, *Visualizing and understanding convolutional networks*, ECCV 2014.
Springenberg et al., *Striving for simplicity: the all convolutional net*, ICLR workshop 2015 (Fig.
1).
"""

from __future__ import annotations

import dataclasses
import functools

import jax

from jaxplain import core
from jaxplain.core import BoundOp, Rule
from jaxplain.core.numerics import positive

__all__ = ["deconvnet", "deconvnet_rules", "guided", "guided_rules"]

RELUS = ("relu", "relu6")


def guided(op: BoundOp, g: jax.Array) -> tuple:
    """The positive part of the signal, where the ReLU is open."""
    return op.vjp(positive(g))


def deconvnet(op: BoundOp, g: jax.Array) -> tuple:
    """The positive part of the signal, whether or not the ReLU is open."""
    return (positive(g),)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The gradient, named as a rule so that the sets can demand that every activation is seen.

    Activations outside of the layers (of pixels, of scores) and in gates are no units; of a unit
    that is no ReLU the method says nothing.
    """

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        return op.vjp(g)

    def accepts(self, op: core.Operation) -> bool | str:
        if op.within_gate or not op.hidden:
            return True
        return (
            "is no ReLU, and the method is defined by ReLUs: some units would have its rule and "
            "others not; use gradient, grad_cam or another method without such a rule"
        )


def _rules(relu: Rule) -> core.RuleSet:
    table: dict[str, Rule] = {**dict.fromkeys(RELUS, relu), "activation": Plain()}
    # Demanding a rule for activations refuses a loop or a foreign derivative that may hide a ReLU.
    return core.RuleSet(table, requires=("activation",), fold=False, needs=RELUS)


@functools.cache
def guided_rules() -> core.RuleSet:
    """The rule set of guided backprop."""
    return _rules(guided)


@functools.cache
def deconvnet_rules() -> core.RuleSet:
    """The rule set of Zeiler's deconvolutional network."""
    return _rules(deconvnet)
