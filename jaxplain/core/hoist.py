"""Ready a function for being called in a loop: do first what does not depend on its argument.

A transposed convolution reverses and transposes its kernel. In the body of a loop XLA does so at
every turn, and on the CPU it then takes its slow path, for the kernel's axes have an unusual
order: five times slower than the same product with the kernel prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain.core import _compat
from jaxplain.core.flatten import flatten


def hoist(function: Callable, like: jax.Array) -> Callable:
    """``function`` of one array shaped as ``like``, to one array, with its constant part computed.

    >>> import jax.numpy as jnp
    >>> double = hoist(lambda x: x * jnp.full(2, 2.0), jnp.zeros(2))
    >>> double(jnp.array([1.0, 3.0])).tolist()
    [2.0, 6.0]
    """
    closed = jax.make_jaxpr(function)(like)
    jaxpr, known = flatten(closed), list(_compat.open_jaxpr(closed)[1])
    (argument,) = jaxpr.invars[len(known):]
    env: dict = dict(zip(jaxpr.invars, known, strict=False))
    kernels: dict = {}
    active, later = {argument}, []
    for eqn in jaxpr.eqns:
        if any(_variable(v) and v in active for v in eqn.invars):
            active.update(eqn.outvars)
            later.append(eqn)
            if eqn.primitive.name == "conv_general_dilated" and eqn.invars[1] not in active:
                kernels[eqn] = _in_order(eqn, env[eqn.invars[1]])
        else:
            _evaluate(eqn, env)

    def call(value: jax.Array) -> jax.Array:
        inner = {**env, argument: value}
        for eqn in later:
            if eqn in kernels:
                inner[eqn.outvars[0]] = _convolve(eqn, inner[eqn.invars[0]], kernels[eqn])
            else:
                _evaluate(eqn, inner)
        out = jaxpr.outvars[0]
        return inner[out] if _variable(out) else jnp.asarray(out.val)

    return call


def _variable(atom: Any) -> bool:
    return not isinstance(atom, _compat.Literal)


def _evaluate(eqn: Any, env: dict) -> None:
    values = [env[v] if _variable(v) else v.val for v in eqn.invars]
    with _compat.equation_context(eqn):
        env.update(zip(eqn.outvars, _compat.bind(eqn, *values), strict=True))


def _in_order(eqn: Any, kernel: jax.Array) -> jax.Array:
    """The kernel with its axes in the order space, inputs, outputs."""
    outputs, inputs, *space = eqn.params["dimension_numbers"].rhs_spec
    return jnp.transpose(kernel, (*space, inputs, outputs))


def _convolve(eqn: Any, value: jax.Array, kernel: jax.Array) -> jax.Array:
    p = eqn.params
    numbers, n = p["dimension_numbers"], kernel.ndim
    numbers = numbers._replace(rhs_spec=(n - 1, n - 2, *range(n - 2)))
    return lax.conv_general_dilated(
        value, kernel, p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"],
        numbers, p["feature_group_count"], p["batch_group_count"], p["precision"],
        p["preferred_element_type"])
