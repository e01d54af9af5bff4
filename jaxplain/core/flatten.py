"""Turn a traced function into one flat list of equations.

Calls (``jit``, ``checkpoint``) are opened, scans of a fixed length unrolled and branches with a
known predicate taken, so that every operation of the network is seen. Calls with a derivative of
their own (``custom_jvp``, ``custom_vjp``) stay whole: opening them would change the gradient
(a ReLU's at 0 from 0 to 0.5).
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from jaxplain.core import _compat

#: Longer scans stay whole: unrolling them would make the program too large to compile.
LONGEST_UNROLLED_SCAN = 256


def flatten(closed: Any) -> Any:
    """The same program as a flat open jaxpr whose inputs are the constants, then the arguments."""
    jaxpr, _ = _compat.open_jaxpr(closed)
    atoms = [*jaxpr.constvars, *jaxpr.invars]
    shapes = [_compat.shape_of(v.aval) for v in atoms]
    n = len(jaxpr.constvars)

    def program(*values: Any) -> list:
        return _evaluate(jaxpr, values[:n], values[n:])

    flat, consts = _compat.open_jaxpr(jax.make_jaxpr(program)(*shapes))
    if consts:
        raise RuntimeError("flattening made constants of its own; please report this as a bug")
    return flat


def _evaluate(jaxpr: Any, consts: Any, args: Any, outer: Any = None) -> list:
    env: dict = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, _compat.Literal) else env[atom]

    env.update(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        traceback = _compat.users_traceback(eqn, outer)
        with _compat.equation_context(eqn, traceback):
            outs = _open(eqn, [read(v) for v in eqn.invars], traceback)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _open(eqn: Any, values: list, traceback: Any) -> list:
    name = eqn.primitive.name
    if name in _compat.CALLS:
        inner, consts = _compat.body(eqn)
        return _evaluate(inner, consts, values, traceback)
    if name == "scan" and eqn.params["length"] <= LONGEST_UNROLLED_SCAN:
        return _unroll(eqn, values)
    if name == "cond" and isinstance(eqn.invars[0], _compat.Literal):
        branches = eqn.params["branches"]
        chosen = min(max(int(values[0]), 0), len(branches) - 1)
        inner, consts = _compat.open_jaxpr(branches[chosen])
        return _evaluate(inner, consts, values[1:], traceback)
    return _compat.bind(eqn, *values)


def _unroll(eqn: Any, values: list) -> list:
    inner, closed_consts = _compat.body(eqn)
    n_consts, n_carry = _compat.scan_arity(eqn)
    length = eqn.params["length"]
    consts, carry = values[:n_consts], values[n_consts : n_consts + n_carry]
    xs = values[n_consts + n_carry :]
    steps = range(length)[::-1] if eqn.params["reverse"] else range(length)
    stacked: list = [None] * length
    for i in steps:
        row = [lax.index_in_dim(x, i, 0, keepdims=False) for x in xs]
        outs = _evaluate(inner, closed_consts, [*consts, *carry, *row])
        carry, stacked[i] = outs[:n_carry], outs[n_carry:]
    if not length:
        return _compat.bind(eqn, *values)
    ys = [
        lax.concatenate([lax.expand_dims(y, (0,)) for y in column], 0)
        for column in zip(*stacked, strict=True)
    ]
    return [*carry, *ys]
