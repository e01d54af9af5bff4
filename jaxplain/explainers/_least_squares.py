"""Least squares under a Jacobian that is never built: conjugate gradients, and a dense check.

The linear map is ``J``, the Jacobian of a function at a point. `least_squares` solves

    x = argmin |J x - y|^2 + damping^2 |x|^2,    of minimal |x| where there are several,

with products by ``J`` and its transpose alone, so that memory is a few vectors. It is
reverse-differentiable: the derivative of the pseudo-inverse at constant rank (Golub and Pereyra,
*The differentiation of pseudo-inverses and nonlinear least squares problems*, 1973, Eq. 4.12)
takes three more solves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from jaxplain.core.hoist import hoist

#: Most entries of a Jacobian that the dense method builds.
LARGEST_DENSE = 2**26


@dataclass(frozen=True)
class LeastSquares:
    """How NAFlow solves for the feature map under a linear layer or a block.

    Args:
        method: ``"cg"``, conjugate gradients on the normal equations in the stable form that keeps
            the residual itself (CGLS), or ``"dense"``, which builds the Jacobian and decomposes it:
            for small networks, and to check the other.
        tolerance: ``"cg"`` stops where ``|J^T (J x - y)| <= tolerance |J^T y|``.
        iterations: and at the latest after so many products with ``J`` and its transpose.
        damping: weight of ``|x|`` beside the residual, 0.3 unless it is said. 0 is plain least
            squares, the paper's Eqs. 8 to 10.

    >>> LeastSquares(tolerance=1e-2).iterations
    500
    """

    method: Literal["cg", "dense"] = "cg"
    tolerance: float = 1e-3
    iterations: int = 500
    damping: float = 0.3

    def __post_init__(self) -> None:
        if self.method not in ("cg", "dense"):
            raise ValueError(f"method must be 'cg' or 'dense', not {self.method!r}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, but is {self.tolerance}")
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise ValueError(f"iterations must be a positive int, not {self.iterations!r}")
        if not 0 <= self.damping < math.inf:
            raise ValueError(f"damping must not be negative, but is {self.damping}")


def least_squares(
    options: LeastSquares, function: Callable, parameters: Any, at: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solve for ``x`` under the Jacobian of ``value -> function(parameters, value)`` at ``at``.

    Args:
        options: see :class:`LeastSquares`.
        function: hashable, and closes over no tracer.
        parameters: pytree of arrays.
        at, y: the point of the Jacobian and the right-hand side, in the dtype of the solution.

    Returns:
        ``x``; the relative normal-equation residual ``|J^T (J x - y)| / |J^T y|`` (of the damped
        equations under damping; 0 where ``J^T y = 0``), computed anew from ``x``; and the
        iterations.
    """
    return _solve(options, function, (parameters, at), y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve(options, function, place, y):
    forward, backward = _maps(options, function, place)
    target = _augment(options, y, place[1])
    x, steps = _minimise(options, forward, backward, target)
    missed = _norm(backward(jax.tree.map(jnp.subtract, target, forward(x))))
    whole = _norm(backward(target))
    residual = jnp.where(whole > 0, missed / jnp.where(whole > 0, whole, 1), 0)
    return x, residual, steps


def _solve_forward(options, function, place, y):
    x, residual, steps = _solve(options, function, place, y)
    return (x, residual, steps), (place, y, x)


def _solve_backward(options, function, saved, cotangents):
    place, y, x = saved
    wanted = cotangents[0]  # the residual and the count are diagnostics, without a derivative
    forward, backward = _maps(options, function, place)
    subtract = functools.partial(jax.tree.map, jnp.subtract)
    u, _ = _minimise(options, backward, forward, wanted)
    v, _ = _minimise(options, forward, backward, u)
    w, _ = _minimise(options, backward, forward, x)
    outside = subtract(wanted, backward(u))
    missed = subtract(_augment(options, y, place[1]), forward(x))

    def products(place: Any) -> Any:
        def jacobian(v: jax.Array) -> jax.Array:
            return jax.jvp(functools.partial(function, place[0]), (place[1],), (v,))[1]

        return jacobian(x), jacobian(v), jacobian(outside)

    _, pull = jax.vjp(products, place)
    return pull((-u[0], missed[0], w[0]))[0], u[0]


_solve.defvjp(_solve_forward, _solve_backward)


def _augment(options: LeastSquares, y: jax.Array, x: jax.Array) -> tuple:
    """The right-hand side; damping adds the rows ``damping x = 0``."""
    return (y, jnp.zeros_like(x)) if options.damping else (y,)


def _maps(options: LeastSquares, function: Callable, place: Any) -> tuple[Callable, Callable]:
    """Products with the (augmented) Jacobian, and with its transpose."""
    parameters, at = place
    value, push = jax.linearize(functools.partial(function, parameters), at)
    transposed = jax.linear_transpose(push, at)
    push, pull = hoist(push, at), hoist(lambda y: transposed(y)[0], value)

    def forward(x: jax.Array) -> tuple:
        return (push(x), options.damping * x) if options.damping else (push(x),)

    def backward(y: tuple) -> jax.Array:
        x = pull(y[0])
        return x + options.damping * y[1] if options.damping else x

    return forward, backward


def _dot(a: Any, b: Any) -> jax.Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, a, b))


def _norm(a: Any) -> jax.Array:
    return jnp.sqrt(_dot(a, a))


def _minimise(
    options: LeastSquares, forward: Callable, backward: Callable, y: Any
) -> tuple[Any, jax.Array]:
    """The least-squares solution of minimal norm, and the iterations that it took."""
    largest = functools.reduce(jnp.maximum, [abs(v).max() for v in jax.tree.leaves(y)])
    scale = jnp.where(largest > 0, largest, 1)  # so that no square of a norm leaves the range
    y = jax.tree.map(lambda v: v / scale, y)
    x, steps = (
        _dense(forward, backward, y)
        if options.method == "dense"
        else _conjugate_gradients(options, forward, backward, y)
    )
    return jax.tree.map(lambda v: v * scale, x), steps


def _conjugate_gradients(
    options: LeastSquares, forward: Callable, backward: Callable, y: Any
) -> tuple[Any, jax.Array]:
    """CGLS (Bjorck 1996, section 7.4.1). It starts at 0 and so ends at the minimal norm.

    Measured on blocks of a trained ResNet-20: jax.scipy's CG on the normal equations takes the same
    steps, but tells neither their number nor the residual; lineax's LSMR takes about as many for
    the same ``|J^T r|``, each dearer, and its stopping rule is another one.
    """
    step = lambda a, k, b: jax.tree.map(lambda a, b: a + k * b, a, b)  # noqa: E731

    def unfinished(state: tuple) -> jax.Array:
        _, _, _, square, count = state
        return (square > limit) & (count < options.iterations)

    def iterate(state: tuple) -> tuple:
        x, r, p, square, count = state
        q = forward(p)
        length = _dot(q, q)
        k = square / jnp.where(length > 0, length, jnp.inf)
        x, r = step(x, k, p), step(r, -k, q)
        s = backward(r)
        new = _dot(s, s)
        return x, r, step(s, new / square, p), new, count + 1

    s = backward(y)
    square = _dot(s, s)
    limit = options.tolerance**2 * square
    start = (jax.tree.map(jnp.zeros_like, s), y, s, square, jnp.zeros_like(square, jnp.int32))
    x, _, _, _, count = lax.while_loop(unfinished, iterate, start)
    return x, count


def _dense(forward: Callable, backward: Callable, y: Any) -> tuple[Any, jax.Array]:
    flat, _ = ravel_pytree(y)
    zeros, restore = ravel_pytree(jax.tree.map(jnp.zeros_like, jax.eval_shape(backward, y)))
    if flat.size * zeros.size > LARGEST_DENSE:
        raise ValueError(
            f"a Jacobian of {flat.size} x {zeros.size} is too large to build; "
            "solve with method='cg'"
        )
    columns = jax.vmap(lambda v: ravel_pytree(forward(restore(v)))[0])(
        jnp.eye(zeros.size, dtype=zeros.dtype)
    )
    x = jnp.linalg.lstsq(columns.T, flat)[0]
    return restore(x), jnp.zeros((), jnp.int32)
