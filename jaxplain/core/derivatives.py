"""Equations that are evaluated with a derivative of ours in place of JAX's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxplain.core import _compat
from jaxplain.core.convolutions import convolve, is_convolution
from jaxplain.core.pooling import is_pool, pool

#: The mark of the calls that are made here.
_KIND = "derivative"


def evaluate(eqn: Any, *values: Any) -> list:
    """What an equation computes; its derivative is ours where we have one."""
    for holds, apply in ((is_pool, pool), (is_convolution, convolve)):
        if holds(eqn):
            with _compat.mark(_KIND, eqn.primitive.name):
                return [apply(eqn, *values)]
    return _compat.bind(eqn, *values)


def with_kept_masks(function: Callable, *inputs: jax.Array) -> list:
    """``function`` of arrays, whose derivative keeps masks as they are.

    The slope of a ReLU is a mask of one byte a value. A compiler would rather compare again than
    keep it, and for that keeps what is compared, four times as large, of all layers at once.
    """
    call = jax.custom_jvp(function)

    @call.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        outs, push = jax.linearize(function, *primals)
        return outs, jax.tree.map(_kept, push)(*tangents)

    with _compat.mark(_KIND, "masks"):
        return call(*inputs)


def _kept(value: Any) -> Any:
    return jax.lax.optimization_barrier(value) if value.dtype == bool else value


def is_ours(eqn: Any) -> bool:
    """Whether an equation is a call that `evaluate` made: its body is the equation as it was."""
    return eqn.primitive.name == "custom_jvp_call" and any(
        _compat.is_mark(name, _KIND) for name in _compat.name_stack(eqn)
    )
