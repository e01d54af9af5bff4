"""The backward rules of deterministic winner-take-all, Excitation Backprop's ancestor."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxplain import core
from jaxplain.core import BoundOp, RuleSet
from jaxplain.core.images import by_image, image_axis
from jaxplain.core.numerics import negative, positive
from jaxplain.core.rules import unbroadcast
from jaxplain.rules.excitation import PASSING, REQUIRED, Gate, attended, first_maximum

__all__ = ["Winner", "winner_rules"]


@dataclasses.dataclass(frozen=True)
class Winner:
    """The whole signal of each image's winner goes to its child of greatest excitation.

    The signal has at most one unit of each image that is not 0, and so has the result.

    Attributes:
        graph: of the traced network, which knows where the images lie in a value.
    """

    graph: core.Graph

    def __call__(self, op: BoundOp, g: jax.Array) -> tuple:
        if op.kind == "add":
            return _to_branch(op, g)
        chosen = (g != 0).astype(g.dtype)
        if op.kind == "gate":
            gates = op.operation.gates
            if op.name != "matmul" or op.operation.within_gate or gates is None:
                return Gate()(op, g)
            value = gates.index(False)
            a, z, pull = attended(op, value)
            won = self._won(op, value, a * pull(chosen.astype(z.dtype))[0], g)
            nothing = jnp.zeros_like(op.inputs[1 - value])
            return (won, nothing) if value == 0 else (nothing, won)
        op, chosen = op.once_there_is(chosen)
        a, w = op.a, op.outgoing_weight
        excitation = positive(a) * op.transpose(positive(w), chosen)
        if not op.nonnegative:
            excitation = excitation + negative(a) * op.transpose(negative(w), chosen)
        return (self._won(op, 0, excitation, g),)

    def accepts(self, op: core.Operation) -> bool | str:
        verdict = Gate().accepts(op) if op.kind == "gate" else True
        if verdict is not True or (op.kind == "gate" and (op.within_gate or op.name != "matmul")):
            return verdict
        values = op.inputs if op.kind == "linear" else ()
        if op.kind == "gate" and op.gates is not None:
            values = (op.inputs[op.gates.index(False)],)
        if all(image_axis(self.graph, v) is not None for v in (*values, *op.outputs) if values):
            return True
        return (
            "has values of which it is not known where the images lie, and each has a winner of "
            "its own; explain images one at a time, or a layer above it"
        )

    def _won(self, op: BoundOp, i: int, excitation: jax.Array, g: jax.Array) -> jax.Array:
        flat = self._by_image(excitation, op.operation.inputs[i])
        total = self._by_image(g, op.operation.output).sum(1, keepdims=True)
        total = jnp.where(flat.max(1, keepdims=True) > 0, total, jnp.zeros_like(total))
        won = jax.nn.one_hot(flat.argmax(1), flat.shape[1], dtype=g.dtype) * total
        like = jax.ShapeDtypeStruct(excitation.shape, g.dtype)
        by_image = functools.partial(self._by_image, v=op.operation.inputs[i])
        return jax.linear_transpose(by_image, like)(won)[0]

    def _by_image(self, a: jax.Array, v: Any) -> jax.Array:
        place = image_axis(self.graph, v)
        return by_image(a, cast(tuple, place))  # None was not accepted


def _to_branch(op: BoundOp, g: jax.Array) -> tuple:
    sign = -1 if op.name == "sub" else 1
    values = [op.inputs[0], *(sign * v for v in op.inputs[1:])]
    children = [jnp.where(g != 0, jnp.broadcast_to(v, g.shape), 0) for v in values]
    best = functools.reduce(jnp.maximum, children)
    signals, left = [], g
    for v, a in zip(children, op.inputs, strict=True):
        taken = jnp.where((v == best) & (best > 0), left, jnp.zeros_like(left))
        left = left - taken
        signals.append(unbroadcast(taken, a))
    return tuple(signals)


def winner_rules(graph: core.Graph) -> RuleSet:
    """The rule set of deterministic winner-take-all (Tsotsos et al. 1995).

    Args:
        graph: of the traced network that the rules are for (``jaxplain.trace(...).whole``).
    """
    winner = Winner(graph)
    return RuleSet(
        {**PASSING, "linear": winner, "add": winner, "gate": winner, "max_pool": first_maximum},
        requires=REQUIRED,
    )
