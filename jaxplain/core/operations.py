"""An operation of a traced network, of one of the kinds that rules are written against."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from jaxplain.core import _compat, derivatives
from jaxplain.core.intervals import Facts
from jaxplain.core.primitives import AFFINE, of_class

KINDS = (
    "linear",
    "scale",
    "bias",
    "activation",
    "max_pool",
    "add",
    "gate",
    "normalise",
    "structural",
    "opaque",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One operation of the traced network.

    Attributes:
        kind, name: what it is; `KINDS` lists the kinds.
        equations: the equations that compute it, in order.
        inputs: the values that depend on the network's input; constants: the ones that do not.
        output: the first value that the last equation computes.
        low: a lower bound of all inputs; facts: bounds of the output.
        gates: of a product of two activations, which factor is the gate; None where that is not
            clear. What divides a quotient is its gate.
        divisor: which input divides, or is a factor ``1 / v``; None where none does.
        gate_low: a lower bound of the gate.
        within_gate: whether every path to the network's output leads through a gate (attention): a
            rule that gives gates no signal gives none to this operation either.
        hidden: whether there are layers with weights before it and after it.
        identity: whether it gives its input back.
    """

    kind: str
    name: str
    equations: tuple[Any, ...]
    inputs: tuple[Any, ...]
    constants: tuple[Any, ...]
    output: Any
    low: float
    facts: Facts
    gates: tuple[bool, ...] | None = None
    divisor: int | None = None
    gate_low: float = -math.inf
    within_gate: bool = False
    hidden: bool = False
    identity: bool = False

    @property
    def scopes(self) -> tuple[str, ...]:
        return _compat.scopes(self.equations[-1])

    @property
    def source(self) -> str:
        """The user's line that made it; "" of what only installed packages made."""
        return next(filter(None, map(_compat.users_line, reversed(self.equations))), "")

    @property
    def place(self) -> str:
        """Where it stands: the module's path, if it has one, and the user's line.

        Of what an installed package made, the package's line.
        """
        path = ".".join(self.scopes)
        lines = map(_compat.source_line, reversed(self.equations))
        line = self.source or next(filter(None, lines), "")
        return ", ".join(filter(None, (repr(path) if path else "", line)))

    @property
    def outputs(self) -> tuple[Any, ...]:
        return tuple(self.equations[-1].outvars)

    @property
    def has_kernel(self) -> bool:
        """Whether it multiplies by an array: a convolution, a dense layer, an interpolation."""
        return self.kind == "linear" and self.name in ("conv", "dense", "resize")

    @property
    def weighted(self) -> bool:
        """Whether it is a layer with weights; interpolation has fixed ones, and is none."""
        return self.kind == "linear" and self.name in ("conv", "dense")

    @property
    def moves(self) -> tuple[Any, ...]:
        """The equations that only move values between its one input and its output.

        Under ``vmap`` a softmax or a norm may give its values in another order of axes.
        """
        if len(self.equations) == 1 or len(self.inputs) != 1:
            return ()
        found: dict[Any, tuple[Any, ...]] = {self.inputs[0]: ()}
        for eqn in self.equations:
            moves = of_class(eqn.primitive.name, "move") and len(eqn.invars) == 1
            for v in eqn.invars:
                if isinstance(v, _compat.Literal) or v not in found:
                    continue
                out = eqn.outvars[0]
                if moves and out.aval.size == v.aval.size:
                    found.setdefault(out, (*found[v], eqn))
                elif out.aval.shape == v.aval.shape:
                    found.setdefault(out, found[v])
        return found.get(self.output, ())

    def evaluate(self, inputs: Any, constants: Any) -> list:
        """The operation's outputs from the values of ``inputs`` and ``constants``."""
        of_floats = all(jax.numpy.issubdtype(v.dtype, np.floating) for v in inputs)
        if self.kind != "activation" or not of_floats:
            return self._evaluate(inputs, constants)
        return derivatives.with_kept_masks(
            lambda *inputs: self._evaluate(inputs, constants), *inputs
        )

    def _evaluate(self, inputs: Any, constants: Any) -> list:
        env = self._given(inputs, constants)
        for eqn in self.equations:
            values = [v.val if isinstance(v, _compat.Literal) else env[v] for v in eqn.invars]
            with _compat.equation_context(eqn):
                env.update(zip(eqn.outvars, derivatives.evaluate(eqn, *values), strict=True))
        return [env[v] for v in self.outputs]

    def with_statistics_held(self, inputs: Any, constants: Any) -> Any:
        """The output, the statistics of a norm being constants: nothing flows through them."""
        env = self._given(inputs, constants)
        _hold_statistics(self.equations, env, set())
        return env[self.output]

    def _given(self, inputs: Any, constants: Any) -> dict:
        return {
            **dict(zip(self.inputs, inputs, strict=True)),
            **dict(zip(self.constants, constants, strict=True)),
        }


def _hold_statistics(eqns: Any, env: dict, summed: set) -> None:
    """Evaluates equations; what bends a sum or a maximum, or divides by one, gets no gradient."""
    for eqn in eqns:
        values = [v.val if isinstance(v, _compat.Literal) else env[v] for v in eqn.invars]
        of_sums = [not isinstance(v, _compat.Literal) and v in summed for v in eqn.invars]
        name = eqn.primitive.name
        if name in _compat.CUSTOM_CALLS:
            inner, consts = _compat.body(eqn)
            inside = dict(zip(inner.constvars, consts, strict=True))
            inside.update(zip(inner.invars, values, strict=True))
            held = {v for v, is_sum in zip(inner.invars, of_sums, strict=True) if is_sum}
            _hold_statistics(inner.eqns, inside, held)
            outs = [v.val if isinstance(v, _compat.Literal) else inside[v] for v in inner.outvars]
            of_sums = [not isinstance(v, _compat.Literal) and v in held for v in inner.outvars]
        else:
            if name == "div" and of_sums[1]:
                values[1] = jax.lax.stop_gradient(values[1])
            with _compat.equation_context(eqn):
                outs = _compat.bind(eqn, *values)
            bends = of_class(name, "elementwise") and name not in (*AFFINE, "div")
            squares = name == "mul" and eqn.invars[0] is eqn.invars[1]
            if any(of_sums) and (bends or squares):
                outs = list(map(jax.lax.stop_gradient, outs))
        env.update(zip(eqn.outvars, outs, strict=True))
        if any(of_sums) or of_class(name, "sum", "extreme"):
            summed.update(eqn.outvars)
