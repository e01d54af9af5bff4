"""Flax Linen: a network of variables, cut where one of its modules gives its value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.third_party.networks.base import Cut, perturbed, tapped

#: What Linen calls a statistic -> its name in Keras's words.
_STATISTICS = {"mean": "moving_mean", "var": "moving_variance"}


def drawn(variables: Any, seed: int = 11) -> Any:
    """The variables in double precision, norms perturbed; what begins as zeros is drawn."""
    rng = np.random.default_rng(seed)

    def draw(path: Sequence[Any], value: Any) -> Any:
        if not np.issubdtype(np.asarray(value).dtype, np.floating):
            return value  # an index
        name = _STATISTICS.get(path[-1].key, path[-1].key)
        if not np.any(value) and name != "moving_variance":
            name = "bias"
        return jnp.asarray(perturbed(name, np.asarray(value, np.float64), rng))

    return jax.tree_util.tree_map_with_path(draw, variables)


def cut(
    fn: Callable[[jax.Array], jax.Array],
    path: tuple[str, ...],
    x: jax.Array,
    maps: Callable[[jax.Array], jax.Array] = lambda value: value,
) -> Cut:
    """The cut where the module of a path gives its value, which may be the first of several."""
    from flax import linen

    def run(x: jax.Array, put: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        seen = []

        def step(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            module = context.module
            if context.method_name != "__call__" or module.scope is None or module.path != path:
                return out
            value, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
            seen.append(value)
            value = value if put is None else put
            return value if rest is None else (value, *rest)

        with linen.intercept_methods(step):
            scores = fn(x)
        return scores, seen[-1]

    return tapped(run, x, maps)
