"""What a network does besides computing: ``debug.print``, callbacks, assertions.

Effects are no operations: no rule, name or analysis sees them. They happen in every evaluation that
computes what they read, and no derivative passes through them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import lax

from jaxplain.core import _compat
from jaxplain.core.errors import UnsupportedOperationError


class Program(NamedTuple):
    """A flat program. Its inputs are the constants, then the arguments.

    ``effects`` are the equations that are there for what they do (``debug.print``); no other
    equation needs them. ``regions`` are the policy and ``prevent_cse`` of each ``checkpoint``.
    """

    invars: list
    outvars: list
    eqns: list
    effects: list
    regions: list[tuple[Any, Any]]


class Effect(NamedTuple):
    """The equations of one effect in order, and the values of the network that they read."""

    equations: tuple[Any, ...]
    reads: frozenset


def find_effects(program: Program, known: set) -> list[Effect]:
    """The effects of a program, in terms of the values that are ``known`` in an evaluation."""
    equations = [*program.eqns, *program.effects]
    makers = {v: i for i, eqn in enumerate(equations) for v in eqn.outvars}
    found = []
    for number, effect in enumerate(program.effects, len(program.eqns)):
        if not effect.effects:
            continue
        steps, reads, stack = {number}, set(), [effect]
        while stack:
            for v in stack.pop().invars:
                if isinstance(v, _compat.Literal):
                    continue
                if v in known:
                    reads.add(v)
                elif makers[v] not in steps:
                    steps.add(makers[v])
                    stack.append(equations[makers[v]])
        found.append(Effect(tuple(equations[i] for i in sorted(steps)), frozenset(reads)))
    return found


def happen(effect: Effect, env: dict) -> None:
    """Evaluate an effect; ``env`` has the values that it reads."""
    local = {v: lax.stop_gradient(env[v]) for v in effect.reads}
    for eqn in effect.equations:
        values = [v.val if isinstance(v, _compat.Literal) else local[v] for v in eqn.invars]
        try:
            with _compat.equation_context(eqn):
                outs = _compat.rebind(eqn, *values)
        # JAX's words for an ordered effect that it is asked to map or to differentiate; of an
        # equation without effects they are its own error.
        except (ValueError, NotImplementedError) as error:
            if not eqn.effects:
                raise
            raise UnsupportedOperationError(
                f"the effect {eqn.primitive.name!r} at {_compat.source_line(eqn)} cannot happen "
                f"within this method: {error}"
            ) from error
        local.update(zip(eqn.outvars, outs, strict=True))


def assertion(eqn: Any) -> list[int] | None:
    """Which operands a branch passes on, if all that the other branches do is to call the host.

    So runtime assertions look: ``equinox.error_if`` and its like.
    """
    if eqn.primitive.name != "cond":
        return None
    passed = None
    for branch in eqn.params["branches"]:
        jaxpr, _ = _compat.open_jaxpr(branch)
        if not jaxpr.eqns and all(v in jaxpr.invars for v in jaxpr.outvars):
            passed = [jaxpr.invars.index(v) for v in jaxpr.outvars]
        elif not jaxpr.eqns or any(e.primitive.name != "pure_callback" for e in jaxpr.eqns):
            return None
    alone = all(not _compat.open_jaxpr(b)[0].eqns for b in eqn.params["branches"])
    return None if alone else passed


def wraps_assertion(eqn: Any) -> bool:
    """Whether all that a custom_jvp_call returns has passed an assertion."""
    if eqn.primitive.name != "custom_jvp_call":
        return False
    jaxpr, _ = _compat.body(eqn)
    passed = {v for e in jaxpr.eqns if assertion(e) is not None for v in e.outvars}
    return bool(passed) and all(v in passed for v in jaxpr.outvars if type(v) is _compat.Var)
