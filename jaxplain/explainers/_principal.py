"""The first principal directions of centred rows: two routes, their costs, and their derivative."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST  # accelerators would round the operands otherwise


class Cost(NamedTuple):
    """Floating-point operations, and numbers held at once, of a route."""

    flops: float
    memory: float


def route_costs(rows: int, channels: int, components: int = 3) -> dict[str, Cost]:
    """What the two routes cost for features of ``rows`` pixels: `pfv` takes the one of fewer FLOPs.

    Operation counts of Golub and Van Loan (*Matrix computations*, 4th ed., Fig. 8.6.1 and
    section 8.3.3): a thin SVD of m x n, m >= n, with both factors is 6 m n^2 + 20 n^3 and a
    symmetric eigenproblem with vectors 9 n^3; the covariance and the projection are 2 m n^2 and
    2 m n k. XLA counts no FLOPs inside LAPACK calls.

    >>> {name: f"{cost.flops:.1e}" for name, cost in route_costs(32 * 14 * 14, 512).items()}
    {'svd': '1.3e+10', 'covariance': '4.5e+09'}
    """
    m, n = max(rows, channels), min(rows, channels)
    project = 2.0 * rows * channels * components
    svd = Cost(6.0 * m * n**2 + 20.0 * n**3 + project, rows * channels + m * n + n * n)
    covariance = Cost(
        2.0 * rows * channels**2 + 9.0 * channels**3 + project, rows * channels + 2.0 * channels**2
    )
    return {"svd": svd, "covariance": covariance}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def principal(centred: jax.Array, k: int, route: str) -> tuple[jax.Array, jax.Array]:
    """The first right singular vectors (C, k), signs fixed, and singular values (k,)."""
    directions, values = _decompose(centred, route)
    return directions[:, :k], values[:k]


def _decompose(centred, route):
    if route == "svd":
        _, values, transposed = jnp.linalg.svd(centred, full_matrices=False)
        return _signed(transposed.T), values
    squares, directions = jnp.linalg.eigh(jnp.matmul(centred.T, centred, precision=HIGHEST))
    return _signed(directions[:, ::-1]), jnp.sqrt(jnp.maximum(squares[::-1], 0))


@principal.defjvp
def _principal_jvp(k, route, primals, tangents):
    # JAX's own rules divide by differences of all pairs of eigenvalues, and dead channels make many
    # of them zero; only the differences to the first k matter here.
    (centred,), (tangent,) = primals, tangents
    directions, values = _decompose(centred, route)
    v, s = directions[:, :k], values[:k]
    moved = jnp.matmul(tangent.T, centred @ v, precision=HIGHEST) + jnp.matmul(
        centred.T, tangent @ v, precision=HIGHEST
    )
    along = jnp.matmul(directions.T, moved, precision=HIGHEST)
    gaps = (s - values[:, None]) * (s + values[:, None])  # exactly 0 for equal ones
    turn = jnp.where(gaps != 0, along / jnp.where(gaps != 0, gaps, 1), 0)
    outside = moved - jnp.matmul(directions, along, precision=HIGHEST)  # where rows < channels
    rest = jnp.where(s > 0, outside / jnp.where(s > 0, s**2, 1), 0)
    change = jnp.where(s > 0, (v * moved).sum(0) / jnp.where(s > 0, 2 * s, 1), 0)
    return (v, s), (jnp.matmul(directions, turn, precision=HIGHEST) + rest, change)


def _signed(directions: jax.Array) -> jax.Array:
    """Each column with its entry of largest size positive: signs are arbitrary otherwise."""
    largest = jnp.take_along_axis(directions, jnp.abs(directions).argmax(0)[None], 0)
    return directions * jnp.where(largest < 0, -1, 1).astype(directions.dtype)


@functools.partial(jax.jit, static_argnums=2)
def from_covariance(covariance, rows, k):
    """The first directions (C, k) and singular values (k,) of ``rows`` rows of this covariance."""
    squares, directions = jnp.linalg.eigh(covariance)
    values = jnp.sqrt(jnp.maximum(squares[::-1][:k], 0) * rows)
    return _signed(directions[:, ::-1][:, :k]), values
