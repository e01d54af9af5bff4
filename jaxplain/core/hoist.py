"""Ready a function for being called in a loop: do first what does not depend on its arguments.

XLA brings convolutions into the form that its CPU routines take, but not those within loops; and
the gradient of a convolution reverses and transposes its kernel, at every turn. In a loop it is
then computed element by element, up to twenty times as slowly as with the kernel prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxplain.core import _compat
from jaxplain.core.derivatives import is_ours


def hoist(function: Callable, *like: Any) -> Callable:
    """``function`` of arguments like these (pytrees of arrays), with its constant part computed.

    >>> import jax.numpy as jnp
    >>> double = hoist(lambda x: {"twice": x * jnp.full(2, 2.0)}, jnp.zeros(2))
    >>> double(jnp.array([1.0, 3.0]))["twice"].tolist()
    [2.0, 6.0]
    """
    leaves, tree = jax.tree.flatten(like)
    shapes = [_compat.shape_of(jax.typeof(v)) for v in leaves]
    closed, out = jax.make_jaxpr(
        lambda *flat: function(*jax.tree.unflatten(tree, flat)), return_shape=True
    )(*shapes)
    jaxpr, known = _compat.open_jaxpr(closed)
    env: dict = dict(zip(jaxpr.constvars, known, strict=True))
    kernels: dict = {}
    active, later = set(jaxpr.invars), []
    for eqn in map(_plain, jaxpr.eqns):
        if eqn.primitive.name == "optimization_barrier":
            # What a rule makes of a weight when the signal comes would be made at every turn.
            for v, passed in zip(eqn.invars, eqn.outvars, strict=True):
                if _variable(v) and v in active:
                    active.add(passed)
                    later.append(eqn.replace(invars=[v], outvars=[passed]))
                else:
                    env[passed] = _read(env, v)
        elif any(_variable(v) and v in active for v in eqn.invars):
            active.update(eqn.outvars)
            later.append(eqn)
            if eqn.primitive.name == "conv_general_dilated" and eqn.invars[1] not in active:
                kernels[eqn] = _in_order(eqn, _read(env, eqn.invars[1]))
        else:
            _evaluate(eqn, env)

    read = {v for eqn in later for v in eqn.invars if _variable(v)}
    ready = {v: jnp.asarray(value) for v, value in env.items() if v in read}

    def call(*args: Any) -> Any:
        # Without the barrier XLA takes more out of the loop: what it repeats for each of several
        # signals, and then holds for all layers at once.
        flat = jax.tree.leaves(args)
        everything = flat, list(ready.values()), list(kernels.values())
        flat, held, prepared = lax.optimization_barrier(everything)
        inner = dict(zip([*ready, *jaxpr.invars], [*held, *flat], strict=True))
        ordered = dict(zip(kernels, prepared, strict=True))
        for eqn in later:
            if eqn in ordered:
                inner[eqn.outvars[0]] = _convolve(eqn, _read(inner, eqn.invars[0]), ordered[eqn])
            else:
                _evaluate(eqn, inner)
        values = [jnp.asarray(_read({**env, **inner}, v)) for v in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(out), values)

    return call


def _plain(eqn: Any) -> Any:
    """The one equation of a call that gives it a derivative of ours; others as they are."""
    if not is_ours(eqn):
        return eqn
    inner, consts = _compat.body(eqn)
    if consts or len(inner.eqns) != 1 or list(inner.outvars) != list(inner.eqns[0].outvars):
        return eqn
    outer = dict(zip(inner.invars, eqn.invars, strict=True))
    given = [outer[v] if _variable(v) else v for v in inner.eqns[0].invars]
    return inner.eqns[0].replace(invars=given, outvars=list(eqn.outvars))


def _variable(atom: Any) -> bool:
    return not isinstance(atom, _compat.Literal)


def _read(env: dict, atom: Any) -> Any:
    return env[atom] if _variable(atom) else atom.val


def _evaluate(eqn: Any, env: dict) -> None:
    values = [_read(env, v) for v in eqn.invars]
    with _compat.equation_context(eqn):
        env.update(zip(eqn.outvars, _compat.bind(eqn, *values), strict=True))


def _in_order(eqn: Any, kernel: jax.Array) -> jax.Array:
    """The kernel with its axes in the order space, inputs, outputs."""
    outputs, inputs, *space = eqn.params["dimension_numbers"].rhs_spec
    return jnp.transpose(kernel, (*space, inputs, outputs))


def _convolve(eqn: Any, images: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution, of images whose axes are brought into the order images, space, channels."""
    p = eqn.params
    given, _, wanted = ((s[0], *s[2:], s[1]) for s in p["dimension_numbers"])
    last, space = kernel.ndim - 1, range(kernel.ndim - 2)
    order = (0, last, *range(1, last))
    numbers = lax.ConvDimensionNumbers(order, (last, last - 1, *space), order)
    result = lax.conv_general_dilated(
        images.transpose(given),
        kernel,
        p["window_strides"],
        p["padding"],
        p["lhs_dilation"],
        p["rhs_dilation"],
        numbers,
        p["feature_group_count"],
        p["batch_group_count"],
        p["precision"],
        p["preferred_element_type"],
    )
    return result.transpose(np.argsort(wanted))
